"""The systems of the five papers, one file each."""

from .awae import AWAE
from .base import Model, Phase
from .mult_vae import MultDAE, MultVAE
from .rec_vae import RecVAE
from .sivae import SIVAE
from .study import VAEIAF, StudyVAE, VAELogistic, VAEMultinomial, VAENck, VAEReg, VAEVamp
from .vaegan import VAEGAN, VAEGANAvb, VAEGANAvbD, VAEGANAvbDC

__all__ = [
    "AWAE",
    "SIVAE",
    "VAEGAN",
    "VAEIAF",
    "Model",
    "MultDAE",
    "MultVAE",
    "Phase",
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
