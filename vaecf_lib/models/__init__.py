"""The systems of the five papers, one file each."""

from .awae import AWAE
from .base import Model, Phase
from .hy_vae import HyVAE
from .mult_vae import MultDAE, MultVAE
from .rec_vae import RecVAE
from .sivae import SIVAE
from .study import StudyVAE
from .vae_bmf import VAEBMF
from .vaegan import VAEGAN

__all__ = [
    "AWAE",
    "SIVAE",
    "VAEBMF",
    "VAEGAN",
    "HyVAE",
    "Model",
    "MultDAE",
    "MultVAE",
    "Phase",
    "RecVAE",
    "StudyVAE",
]
