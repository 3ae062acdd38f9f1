"""Pure functions: likelihoods, divergences, counting, schedules. No modules, no state."""

from .counting import inclusion_probabilities, log_elementary_symmetric
from .divergences import (
    gaussian_kl,
    gaussian_kl_monte_carlo,
    gaussian_log_prob,
    gaussian_mixture_log_prob,
    maximum_mean_discrepancy,
    sample_gaussian,
    standard_normal_log_prob,
)
from .implicit_slim import implicit_slim
from .likelihoods import (
    LIKELIHOODS,
    bernoulli_log_prob,
    multinomial_log_prob,
    n_choose_k_log_prob,
    observed_log_weight,
    observed_squared_error,
    rating_log_prob,
)
from .priors import composite_prior_log_prob, vamp_prior_log_prob
from .schedules import linear_annealing

__all__ = [
    "LIKELIHOODS",
    "bernoulli_log_prob",
    "composite_prior_log_prob",
    "gaussian_kl",
    "gaussian_kl_monte_carlo",
    "gaussian_log_prob",
    "gaussian_mixture_log_prob",
    "implicit_slim",
    "inclusion_probabilities",
    "linear_annealing",
    "log_elementary_symmetric",
    "maximum_mean_discrepancy",
    "multinomial_log_prob",
    "n_choose_k_log_prob",
    "observed_log_weight",
    "observed_squared_error",
    "rating_log_prob",
    "sample_gaussian",
    "standard_normal_log_prob",
    "vamp_prior_log_prob",
]
