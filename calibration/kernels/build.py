#!/usr/bin/env python3
"""Compiles the kernels to PTX with NVRTC, and checks them with ptxas where it is found.

    python3 -m venv venv && venv/bin/pip install nvidia-cuda-nvrtc-cu12==12.2.140 nvidia-cuda-nvcc-cu12==12.2.140
    venv/bin/python calibration/kernels/build.py           # writes calibration/kernels/ptx/*.ptx
    venv/bin/python calibration/kernels/build.py --table   # prints registers, spills and shared memory

NVRTC 12.2 writes PTX ISA 8.2, which any driver from R535 on compiles for its GPU.
"""

import ctypes
import glob
import os
import re
import subprocess
import sys
import sysconfig
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = ["stream", "elementwise", "gemm", "attention"]
# compute_75 is for Turing; everything from Ampere on takes compute_80.
PTX = ["compute_75", "compute_80"]
CUBIN = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90"]


def find(pattern):
    for site in {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]}:
        found = sorted(glob.glob(os.path.join(site, "nvidia", "*", pattern)))
        if found:
            return found[0]
    return None


def nvrtc():
    builtins = find("lib/libnvrtc-builtins.so*")
    library = find("lib/libnvrtc.so*")
    if not library:
        sys.exit("error: no NVRTC here; pip install nvidia-cuda-nvrtc-cu12==12.2.140")
    ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(library)


def compile_ptx(library, name, arch):
    with open(os.path.join(HERE, name + ".cu"), "rb") as source:
        text = source.read()
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), text, (name + ".cu").encode(), 0, None, None)
    options = [f"--gpu-architecture={arch}", f"--include-path={HERE}", "--std=c++17"]
    array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    status = library.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    if log.value.strip():
        print(log.value.decode(), file=sys.stderr)
    if status != 0:
        sys.exit(f"error: {name}.cu does not compile for {arch}")
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, ptx)
    return ptx.value.decode()


def resources(ptx, arch):
    """Per kernel: registers, bytes spilled, bytes of static shared memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.ptx")
        with open(path, "w") as file:
            file.write(ptx)
        done = subprocess.run(
            [find("bin/ptxas"), "-v", f"-arch={arch}", path, "-o", os.path.join(folder, "kernel.cubin")],
            capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    rows, name = {}, None
    for line in done.stderr.splitlines():
        if match := re.search(r"entry function '(\w+)'", line):
            name = match[1]
            rows[name] = [0, 0]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            rows[name][1] = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            rows[name][0] = int(match[1])
    return rows


def main():
    library = nvrtc()
    if "--table" in sys.argv[1:]:
        table = {}
        for source in SOURCES:
            for arch in CUBIN:
                ptx = compile_ptx(library, source, PTX[arch != "sm_75"])
                for name, row in resources(ptx, arch).items():
                    table.setdefault(name, {})[arch] = row
        print("| kernel | " + " | ".join(CUBIN) + " |")
        print("| --- |" + " --- |" * len(CUBIN))
        for name, row in table.items():
            cells = [f"{row[a][0]}" + (f" ({row[a][1]} B spilled)" if row[a][1] else "") for a in CUBIN]
            print(f"| {name} | " + " | ".join(cells) + " |")
        return
    os.makedirs(os.path.join(HERE, "ptx"), exist_ok=True)
    for source in SOURCES:
        for arch in PTX:
            path = os.path.join(HERE, "ptx", f"{source}.{arch}.ptx")
            with open(path, "w") as file:
                file.write(compile_ptx(library, source, arch))
            print(os.path.relpath(path))


main()
