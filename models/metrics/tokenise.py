"""Captions to tokens as the caption metrics want them: the Penn Treebank's splitting, lower case, no punctuation."""

import re

# Caption metrics are published on the tokens of Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines -lowerCase`),
# a Java program. These rules were found by watching what it does to captions; where Java is present,
# tests/models/metrics/test_tokenise.py compares the two.

PUNCTUATION = frozenset(['"', "''", "'", "``", "`", ".", "?", "!", ",", ":", ";", "-", "--", "---", "----", "..."])
"""What is left out. Brackets are meant to be, but the published list has them in capitals, so that they stay."""

CONTRACTIONS = {
    "cannot": ["can", "not"],
    "gonna": ["gon", "na"],
    "gotta": ["got", "ta"],
    "wanna": ["wan", "na"],
    "gimme": ["gim", "me"],
    "lemme": ["lem", "me"],
    "'tis": ["'t", "is"],
    "'twas": ["'t", "was"],
}
"""Those that are split without an apostrophe, or elsewhere."""

ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&nbsp;": " "}
ENTITY = re.compile("|".join(ENTITIES))
PLAIN = str.maketrans(
    {"’": "'", "‘": "`", "“": '"', "”": '"', "«": '"', "»": '"', "–": "--", "—": "--", "…": " ... ", "\u00ad": None}
)
"""Quotes and dashes in ASCII; the soft hyphen does not even end a word."""
BLANK = re.compile("[\\s\u200b-\u200f\ufeff\U00010000-\U0010ffff]+")
"""What ends a word and is no token: white space, also without width, and emoji."""
REWRITTEN = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "£": "#", "€": "$", "¢": "cents"}
    | {" ": "\u00a0"}
)
"""How characters are written in a token; the only blank in one is that of 1 1/2."""

ABBREVIATIONS = (
    "mr|mrs|ms|messrs|mme|mlle|drs?|prof|jr|sr|st|ste|mt|ft|rev|hon|gen|col|lt|maj|brig|capt|sgt|cpl|pvt|adm|det|insp|"
    "supt|gov|pres|sen|reps?|esq|inc|cos?|corp|ltd|plc|bros|dept|univ|assn|ave|blvd|rd|rt|ct|sq|etc|vs|al|cf|est|ext|"
    "tel|adj|adv|ph|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|alex|ala|ariz|calif|colo|"
    "conn|fla|ga|ind|kan|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wis|wyo"
)
# The first that fits is taken, so the special stands before the general. \w is a letter, digit or _; [^\W\d_] a letter.
RULES = r"""
    [^\W\d_]++(?![^ ])                                      # most words: no rule below would change them
  | https?://[^\s"<>()]+ | www\.[^\s"<>()]*\w               # addresses
  | \w[\w.+-]*@\w+(?:[.-]\w+)* | [@#][a-z]\w*               # mail, @name, #tag
  | </?[a-z][^\s<>]*>                                       # <unk>
  | [:;=]-?[()dp](?!\w)                                     # :)
  | \d{1,4}[ ]\d{1,4}/\d{1,4}(?!\d)                         # 1 1/2
  | (?:[a-z]\.)+[a-z](?![\w'])\.? | [a-z]\.(?!\w) | ph\.d\.?                            # u.s. and j. smith
  | (?:ABBREVIATIONS)\.(?![\w.]) | (?:nos?|figs?|art|pp|op|ca|prop)\.(?=\s\d)           # mr. and no. 1
  | [^\W\d_]+\.(?=[,:;])                                    # what is followed by ., was an abbreviation
  | (?-i:[A-Z]+(?:[&+][A-Z]+)+)                             # R&B
  | [^\W\d_]+?(?=n't(?!\w)) | n't(?!\w) | '(?:s|m|d|ll|re|ve)(?!\w)                     # do n't, it 's
  | 't(?:is|was)(?!\w) | '(?:em|cause|till?)(?!\w) | 'n' | 'n(?!\w) | '\d\ds            # rock 'n' roll, '90s
  | ol'(?!\w) | y'(?=[^\W\d_]) | (?:c'mon|cap'n|e'er)(?!\w)                             # y' all
  | (?:[dlno]|(?-i:[A-Z]))'(?!(?:s|m|d|t|ll|re|ve)(?!\w))[^\W\d_]{2,}(?:-[^\W_]+)*      # o'clock
  | [^\W\d_]+[aeiouy]'[aeiou][^\W\d_]*                      # ma'am
  | c\+\+ | c\#
  | [^\W_]+(?:\.[^\W_]+)+                                   # node.js
  | [+-]?(?:\d+(?:[.,:]\d+)+|\.\d+)(?:-[^\W_]+)* | [+-]\d+  # 3.14, 10:30, 1,000
  | [^\W_]+(?:-[^\W\d_]+)*(?:/[^\W_]+(?:-[^\W\d_]+)*)+      # he/she, 1/2-inch
  | [^\W_]+(?:[-_][^\W_]+)*                                 # any other word
  | \.\.\. | -{2,} | _+ | \*{2,} | [?!]{2,} | '' | `` | \S  # marks
"""
TOKEN = re.compile(RULES.replace("ABBREVIATIONS", ABBREVIATIONS), re.VERBOSE | re.IGNORECASE)


def tokenise(caption: str) -> list[str]:
    """The tokens of any string, possibly none; no token holds a blank."""
    text = ENTITY.sub(lambda found: ENTITIES[found[0]], caption).translate(PLAIN)
    tokens: list[str] = []
    for found in TOKEN.findall(BLANK.sub(" ", text)):
        token = found.lower()
        if token not in PUNCTUATION:
            tokens += CONTRACTIONS.get(token) or [token.translate(REWRITTEN)]
    return tokens
