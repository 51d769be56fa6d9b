"""Peak rates of accelerators, from their vendors' data sheets.

Dense rates: the data sheets of Hopper, Ada and Blackwell print matrix rates with 2:4 sparsity, half of which is meant
here. 16-bit rates are those of the matrix units with fp32 accumulation; fp32 is the vector units' (PyTorch leaves TF32
off by default). Memory in decimal gigabytes as printed, which is a little less than what drivers report.
"""

from dataclasses import dataclass

from cdlm.model.roofline.cost import Precision
from cdlm.model.roofline.roof import Roof


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One device.

    Attributes:
        half_flops_per_s, single_flops_per_s: peak rates for 16-bit and fp32 matrix products.
        bytes_per_s: peak memory bandwidth.
        memory_bytes: memory.
        source: where the figures are from.
    """

    name: str
    half_flops_per_s: float
    single_flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    source: str

    def roof(self, precision: Precision, compute_efficiency: float = 1.0, memory_efficiency: float = 1.0) -> Roof:
        """The device's peak rates for a precision, times the assumed efficiencies."""
        flops_per_s = precision.speed * (self.half_flops_per_s if precision.half else self.single_flops_per_s)
        return Roof(flops_per_s * compute_efficiency, self.bytes_per_s * memory_efficiency)


def _device(
    name: str, half_tflops: float, single_tflops: float, gigabytes_per_s: float, gigabytes: float, source: str
) -> Accelerator:
    return Accelerator(name, half_tflops * 1e12, single_tflops * 1e12, gigabytes_per_s * 1e9, gigabytes * 1e9, source)


_H100 = "NVIDIA H100 Tensor Core GPU datasheet"

ACCELERATORS = {
    device.name: device
    for device in (
        # The 40 GB column is of the datasheet's 2020 edition; later ones list 80 GB only.
        _device("a100-40gb", 312, 19.5, 1555, 40, "NVIDIA A100 Tensor Core GPU datasheet, SXM4 40 GB"),
        _device("a100-80gb", 312, 19.5, 2039, 80, "NVIDIA A100 Tensor Core GPU datasheet, SXM4 80 GB"),
        _device("h100-sxm", 989.5, 67, 3350, 80, f"{_H100}, SXM: 1,979 TFLOPS with sparsity"),
        _device("h100-pcie", 756.5, 51, 2000, 80, f"{_H100}, PCIe: 1,513 TFLOPS with sparsity"),
        _device("h200", 989.5, 67, 4800, 141, "NVIDIA H200 Tensor Core GPU datasheet, SXM: 1,979 TFLOPS with sparsity"),
        # An eighth of HGX B200: 36 PFLOPS with sparsity, 64 TB/s, 1,440 GB. Single GPUs are advertised with 192 GB,
        # of which 180 GB are usable.
        _device("b200", 2250, 75, 8000, 180, "NVIDIA HGX B200 and DGX B200 datasheets, one of eight GPUs"),
        _device("l40s", 362.05, 91.6, 864, 48, "NVIDIA L40S datasheet: 733 TFLOPS with sparsity"),
        _device("l4", 121, 30.3, 300, 24, "NVIDIA L4 Tensor Core GPU datasheet: 242 TFLOPS with sparsity"),
        # GeForce halves the matrix rate where sums are kept in fp32, as PyTorch does.
        _device("rtx4090", 165.2, 82.6, 1008, 24, "NVIDIA Ada GPU architecture whitepaper, appendix A"),
    )
}
ALIASES = {"a100": "a100-80gb", "h100": "h100-sxm"}
# What drivers call them.
_DRIVER_NAMES = {
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "NVIDIA A100-PCIE-40GB": "a100-40gb",
    "NVIDIA A100-SXM4-80GB": "a100-80gb",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
    "NVIDIA L40S": "l40s",
    "NVIDIA L4": "l4",
    "NVIDIA GeForce RTX 4090": "rtx4090",
}


class UnknownAcceleratorError(ValueError):
    """The device is unknown; the message lists the known ones."""


def find_accelerator(name: str) -> Accelerator:
    """Finds a device by name or alias, ignoring case.

    Raises:
        UnknownAcceleratorError: the name is unknown.
    """
    wanted = name.lower()
    found = ACCELERATORS.get(ALIASES.get(wanted, wanted))
    if found is None:
        raise UnknownAcceleratorError(f"{name!r} is not known; known: {', '.join([*ACCELERATORS, *ALIASES])}, cpu")
    return found


def accelerator_of_driver(name: str) -> Accelerator | None:
    """The device that a driver calls ``name``; ``None`` if its rates are not known, as those of a share of a GPU."""
    known = _DRIVER_NAMES.get(name)
    return None if known is None else ACCELERATORS[known]
