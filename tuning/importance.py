"""How much of the differences between a sweep's trials each key explains, after Hutter and others (ICML 2014)."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from tuning.scales import Scale

FEWEST_TRIALS = 4
MOST_CATEGORIES = 6
"""With more, a key counts as ordered: the time that optuna takes doubles with every further category."""


def importances(scales: Sequence[Scale], results: Mapping[int, float]) -> dict[str, float]:
    """Shares, which add up to 1, of the variance of `results`, by trial number, that each key explains alone (fANOVA).

    Every one of these trials needs a place on every scale; the places, not the values, are what the forest sees, so
    that a key sampled on a logarithmic scale counts by its magnitude.
    """
    space = {scale.key: _distribution(scale) for scale in scales}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the study made here is nothing to tell a user of
    try:
        study = optuna.create_study()
    finally:
        optuna.logging.set_verbosity(verbosity)
    for number, result in results.items():
        places = {scale.key: scale.places[number] for scale in scales}
        study.add_trial(create_trial(params=places, distributions=space, value=result))
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def _distribution(scale: Scale) -> BaseDistribution:
    places = sorted(set(scale.places.values()))
    if scale.kind == "categories" and len(places) <= MOST_CATEGORIES:
        return CategoricalDistribution(places)
    return FloatDistribution(0, 1)
