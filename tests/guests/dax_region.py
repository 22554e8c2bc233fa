from pathlib import Path
from .packages import Kernel
def build_dax_region(kernel: Kernel) -> Path:
    raise NotImplementedError
