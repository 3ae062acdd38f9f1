"""The systems the papers compare with, floors, and the embedded world's ceiling; one file each."""

from .autorec_i import AutoRecI
from .autorec_u import AutoRecU
from .biased_mf import BiasedMF
from .cdae import CDAE
from .cfgan import CFGAN
from .chance import Random
from .cnn_cf import CNNCF
from .irgan import IRGAN
from .macrid_vae import MacridVAE
from .means import Means
from .ncf import NCF
from .oracle import PlantedOracle
from .popularity import Popularity

__all__ = [
    "CDAE",
    "CFGAN",
    "CNNCF",
    "IRGAN",
    "NCF",
    "AutoRecI",
    "AutoRecU",
    "BiasedMF",
    "MacridVAE",
    "Means",
    "PlantedOracle",
    "Popularity",
    "Random",
]
