"""The systems of the five papers, one file each."""

from .awae import AWAE
from .base import Model, Phase
from .hy_vae import DeepAE, HyVAE, RatingVAE
from .mult_vae import MultDAE, MultVAE
from .rec_vae import RecVAE
from .sivae import SIVAE
from .study import VAEIAF, StudyVAE, VAELogistic, VAEMultinomial, VAENck, VAEReg, VAEVamp
from .vae_bmf import VAEBMF
from .vaegan import VAEGAN, VAEGANAvb, VAEGANAvbD, VAEGANAvbDC

__all__ = [
    "AWAE",
    "SIVAE",
    "VAEBMF",
    "VAEGAN",
    "VAEIAF",
    "DeepAE",
    "HyVAE",
    "Model",
    "MultDAE",
    "MultVAE",
    "Phase",
    "RatingVAE",
    "RecVAE",
    "StudyVAE",
    "VAEGANAvb",
    "VAEGANAvbD",
    "VAEGANAvbDC",
    "VAELogistic",
    "VAEMultinomial",
    "VAENck",
    "VAEReg",
    "VAEVamp",
]
