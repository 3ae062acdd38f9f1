"""The systems the papers compare with, floors, and the embedded world's ceiling; one file each."""

from .autorec_i import AutoRecI
from .autorec_u import AutoRecU
from .biased_mf import BiasedMF
from .cdae import CDAE
from .chance import Random
from .cnn_cf import CNNCF
from .lambdanet import LambdaNet
from .macrid_vae import MacridVAE
from .means import Means
from .ncf import NCF
from .oracle import PlantedOracle
from .popularity import Popularity
from .ract import RaCT
from .warp import WARP

__all__ = [
    "CDAE",
    "CNNCF",
    "NCF",
    "WARP",
    "AutoRecI",
    "AutoRecU",
    "BiasedMF",
    "LambdaNet",
    "MacridVAE",
    "Means",
    "PlantedOracle",
    "Popularity",
    "RaCT",
    "Random",
]
