"""The ELBO, its gap and the exact posterior, by quadrature in one dimension."""

import numpy as np
import torch

from vaecf_lib import maths

GRID = np.linspace(-8, 8, 4001)
STEP = GRID[1] - GRID[0]


def model(seed):
    """A decoder eta(z) = a + b z on five items, and clicks."""
    rng = np.random.default_rng(seed)
    a, b, x = rng.standard_normal(5), 2 * rng.standard_normal(5), (rng.random(5) < 0.5).astype(float)
    eta = torch.from_numpy(a + GRID[:, None] * b)
    log_likelihood = maths.multinomial_log_prob(eta, torch.from_numpy(x).expand(len(GRID), -1)).numpy()
    log_prior = -0.5 * GRID**2 - 0.5 * np.log(2 * np.pi)
    log_evidence = np.log((np.exp(log_likelihood + log_prior) * STEP).sum())
    return log_likelihood, log_prior, log_evidence


def elbo_and_gap(seed, mu, sigma):
    log_likelihood, log_prior, log_evidence = model(seed)
    log_q = maths.gaussian_log_prob(
        torch.from_numpy(GRID)[:, None], torch.tensor([mu]), torch.tensor([2 * np.log(sigma)])
    ).numpy()
    q = np.exp(log_q)
    kl = maths.gaussian_kl(torch.tensor([mu]), torch.tensor([2 * np.log(sigma)])).item()
    elbo = (q * log_likelihood).sum() * STEP - kl
    log_posterior = log_likelihood + log_prior - log_evidence
    return elbo, (q * (log_q - log_posterior)).sum() * STEP, log_evidence


def test_elbo_is_below_the_evidence():
    for seed in range(5):
        for mu in (-1.0, 0.0, 0.7):
            for sigma in (0.2, 0.7, 1.2):
                elbo, _, log_evidence = elbo_and_gap(seed, mu, sigma)
                assert elbo < log_evidence + 1e-6


def test_gap_is_the_divergence_to_the_posterior():
    for seed in range(5):
        for mu, sigma in ((0.0, 1.0), (0.5, 0.4), (-1.2, 0.8)):
            elbo, gap, log_evidence = elbo_and_gap(seed, mu, sigma)
            assert gap >= 0
            assert abs(log_evidence - elbo - gap) < 1e-5


def test_the_objective_in_terms_of_information():
    """Eq. 11 of Zamani et al. with the entropy of the data that it lacks, and H - D <= I <= R: users, tastes in a table."""
    rng = np.random.default_rng(0)
    for beta in (0.0, 0.3, 1.0, 2.0):
        data, prior = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(3))
        q, decoder = rng.dirichlet(np.ones(3), 4), rng.dirichlet(np.ones(4), 3).T  # of z given x; of x given z: (4, 3)
        joint = data[:, None] * q
        of_z = joint.sum(0)
        entropy, distortion = -(data * np.log(data)).sum(), -(joint * np.log(decoder)).sum()
        rate, information = (joint * np.log(q / prior)).sum(), (joint * np.log(q / of_z)).sum()
        mismatch = (of_z * np.log(of_z / prior)).sum()
        missed = (joint * np.log(joint / of_z / decoder)).sum()
        assert abs(distortion + beta * rate - ((beta - 1) * information + beta * mismatch + missed + entropy)) < 1e-12
        assert entropy - distortion < information < rate
        assert mismatch > 0 and missed > 0
