"""Published peaks of GPUs, and the least time that a count of operations and bytes takes on them.

A roofline is a bound, not a forecast: no kernel is faster, and none that is bound by latency comes near it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GPUS", "Gpu", "Resources", "Roof", "find_gpu", "gpu_of_arch", "occupancy", "roofline"]


@dataclass(frozen=True)
class Gpu:
    """What a GPU can do at most, per its maker.

    Attributes
    ----------
    name : str
        Name, as in `GPUS`.
    backend : {"cuda", "hip"}
        Triton's name of the platform.
    arch : int or str
        Triton's name of the architecture: 80, 90, 100 or "gfx942".
    warp_size : int
        Threads a warp (wavefront).
    flops : dict of str to float
        Dense operations a second of "tf32", "fp32" (no tensor cores on NVIDIA), "bf16" and "fp64".
    bandwidth : float
        Bytes a second from and to memory.
    units : int
        Streaming multiprocessors or compute units.
    shared_per_unit, shared_per_block : int
        Bytes of shared memory (LDS) of a unit, and the most that one program may have.
    shared_reserved : int
        Bytes of a unit's shared memory that the system takes for each program.
    registers : int
        Registers that the warps of one register file share; a file is a unit on NVIDIA, a SIMD on AMD.
    register_files : int
        Register files a unit.
    register_step : int
        Registers a warp are given in multiples of this.
    max_registers : int
        Registers of a thread at most.
    max_warps, max_blocks : int
        Warps and programs a unit at most.
    clock : float
        Cycles a second at which the published operations are reached.
    schedulers : int
        Instructions that a unit issues in a cycle, each of another warp; 0 where they are not counted.
    """

    name: str
    backend: str
    arch: int | str
    warp_size: int
    flops: dict[str, float]
    bandwidth: float
    units: int
    shared_per_unit: int
    shared_per_block: int
    shared_reserved: int
    registers: int
    register_files: int
    register_step: int
    max_registers: int
    max_warps: int
    max_blocks: int
    clock: float
    schedulers: int

    @property
    def target(self) -> str:
        """Name of the compilation target: "sm_90" or "gfx942"."""
        return f"sm_{self.arch}" if self.backend == "cuda" else str(self.arch)


def _nvidia(
    name: str,
    arch: int,
    flops: tuple[float, float, float, float],
    bandwidth: float,
    units: int,
    shared_kib: tuple[int, int],
    clock: float,
) -> Gpu:
    # registers, warps and blocks: CUDA C++ Programming Guide, "Technical Specifications per Compute
    # Capability" (8.0, 9.0, 10.0 agree); one KiB a block is reserved since 8.0; 256 registers is the
    # allocation step a warp of the occupancy calculator; clocks are those that the published operations imply
    return Gpu(
        name=name,
        backend="cuda",
        arch=arch,
        warp_size=32,
        flops=dict(zip(("tf32", "fp32", "bf16", "fp64"), (x * 1e12 for x in flops), strict=True)),
        bandwidth=bandwidth * 1e12,
        units=units,
        shared_per_unit=shared_kib[0] * 1024,
        shared_per_block=shared_kib[1] * 1024,
        shared_reserved=1024,
        registers=65536,
        register_files=1,
        register_step=256,
        max_registers=255,
        max_warps=64,
        max_blocks=32,
        clock=clock * 1e9,
        schedulers=4,
    )


#: The first GPU of an architecture is the one that a compile report assumes.
GPUS = (
    # NVIDIA A100 80GB SXM data sheet; Ampere architecture white paper (108 SMs)
    _nvidia("A100", 80, (156.0, 19.5, 312.0, 19.5), 2.039, 108, (164, 163), 1.41),
    # NVIDIA H100 SXM data sheet, halved where it counts sparsity; Hopper architecture white paper (132 SMs)
    _nvidia("H100", 90, (494.5, 66.9, 989.5, 66.9), 3.35, 132, (228, 227), 1.83),
    # NVIDIA H200 SXM data sheet: the H100's arithmetic with HBM3e
    _nvidia("H200", 90, (494.5, 66.9, 989.5, 66.9), 4.8, 132, (228, 227), 1.83),
    # NVIDIA Blackwell architecture technical brief, HGX B200, one GPU, halved where it counts sparsity
    _nvidia("B200", 100, (1100.0, 80.0, 2250.0, 40.0), 8.0, 148, (228, 227), 1.86),
    # AMD Instinct MI300X data sheet: matrix operations without sparsity, fp32 by v_mfma_f32_*_f32. CDNA 3
    # instruction set reference: 512 registers a lane and SIMD, in steps of 8, 8 waves a SIMD, LDS 64 KiB
    Gpu(
        name="MI300X",
        backend="hip",
        arch="gfx942",
        warp_size=64,
        flops={"tf32": 653.7e12, "fp32": 163.4e12, "bf16": 1307.4e12, "fp64": 163.4e12},
        bandwidth=5.3e12,
        units=304,
        shared_per_unit=65536,
        shared_per_block=65536,
        shared_reserved=0,
        registers=512 * 64,
        register_files=4,
        register_step=8 * 64,
        max_registers=512,
        max_warps=32,
        max_blocks=32,
        clock=2.1e9,
        schedulers=0,
    ),
)


def gpu_of_arch(target: str) -> Gpu:
    """First GPU of `GPUS` with this target: "sm_80", "sm_90", "sm_100" or "gfx942".

    Raises
    ------
    ValueError
        If there is none.
    """
    for gpu in GPUS:
        if gpu.target == target:
            return gpu
    raise ValueError(f"no target {target!r}; the targets are {', '.join(gpu.target for gpu in GPUS)}")


def find_gpu(device_name: str) -> Gpu | None:
    """GPU of `GPUS` whose name is in the driver's, "NVIDIA H200" say; None if its peaks are not known."""
    return next((gpu for gpu in GPUS if gpu.name in device_name), None)


@dataclass(frozen=True)
class Roof:
    """The least time, and what bounds it: "memory" or "arithmetic"."""

    seconds: float
    bound: str


def roofline(gpu: Gpu, flops: float, n_bytes: float, precision: str = "tf32") -> Roof:
    """Least time of a kernel on a GPU.

    Parameters
    ----------
    gpu : Gpu
        The GPU.
    flops, n_bytes : float
        Operations, and bytes from and to memory, each counted once.
    precision : {"tf32", "tf32x3", "ieee", "bf16", "fp64"}
        Arithmetic; tf32x3 is three tf32 products, ieee is fp32.

    Returns
    -------
    Roof
    """
    peak = {"tf32x3": gpu.flops["tf32"] / 3, "ieee": gpu.flops["fp32"]}.get(precision)
    arithmetic = flops / (peak or gpu.flops[precision])
    memory = n_bytes / gpu.bandwidth
    return Roof(max(arithmetic, memory), "arithmetic" if arithmetic > memory else "memory")


@dataclass(frozen=True)
class Resources:
    """What a program asks of a unit: registers a thread, bytes of shared memory, warps."""

    registers: int
    shared: int
    warps: int


def occupancy(gpu: Gpu, use: Resources) -> float:
    """Warps resident on a unit over the most it can hold; 0 where the program does not fit.

    Counts registers, shared memory, warps and programs, as the makers' occupancy calculators do. Tensor
    memory (sm_100) is not counted.
    """
    if use.shared > gpu.shared_per_block:
        return 0.0
    per_warp = _round_up(max(use.registers, 1) * gpu.warp_size, gpu.register_step)
    warps = min(gpu.max_warps, gpu.registers // per_warp * gpu.register_files)
    blocks = min(gpu.max_blocks, warps // use.warps)
    if use.shared:
        blocks = min(blocks, gpu.shared_per_unit // (_round_up(use.shared, 128) + gpu.shared_reserved))
    return blocks * use.warps / gpu.max_warps


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
