"""METEOR, by the Java program of its authors (Denkowski & Lavie, 2014), which pycocoevalcap carries."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

from pycocoevalcap.meteor import meteor as carrier

from models.errors import UserError

JAR = Path(carrier.__file__).with_name(carrier.METEOR_JAR)


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of a corpus, 0 to 1: the sentences' statistics are summed before the score is taken.

    Args:
        candidates: n > 0 sentences of tokens (`tokenise`) with a blank between; one may be empty.
        references: for each of them one or more.

    Raises:
        UserError: there is no `java` on PATH, or the program fails (what it said is quoted).
    """
    java = shutil.which("java")
    if java is None:
        raise UserError("METEOR needs Java and there is no `java` on PATH; install a Java runtime (8 or newer)")
    # Java would otherwise read and write in the encoding of the locale.
    command = [java, "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", str(JAR), "-", "-", "-stdio", "-l", "en", "-norm"]
    # A line's last part is the candidate; the blank before it keeps an empty one from being overlooked.
    pairs = zip(candidates, references, strict=True)
    questions = [" ||| ".join(["SCORE", *texts, candidate]) for candidate, texts in pairs]
    pipe = subprocess.PIPE
    # Its complaints go to a file: a pipe that nobody reads could fill up and stop it.
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        try:
            with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=complaints, encoding="utf-8") as process:
                try:
                    return _converse(process, questions)
                finally:
                    process.kill()
        except (BrokenPipeError, StopIteration):  # it has ended, before or after a question
            complaints.seek(0)
            said = " ".join(line.rstrip() for line in complaints if not line.startswith("\t"))  # no stack frames
            raise UserError(f"METEOR failed; it said: {said or 'nothing'}") from None


def _converse(process: subprocess.Popen[str], questions: Sequence[str]) -> float:
    lines = iter(process.stdout or ())
    statistics = []
    for question in questions:
        print(question, file=process.stdin, flush=True)
        statistics.append(next(lines).rstrip())
    print(" ||| ".join(["EVAL", *statistics]), file=process.stdin, flush=True)
    # The answer is each sentence's score and then that of all.
    return float([next(lines) for _ in range(len(questions) + 1)][-1])
