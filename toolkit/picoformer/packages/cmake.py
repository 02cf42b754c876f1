"""The library alone: sources, public headers, a CMakeLists.txt for any compiler, and an example."""

from __future__ import annotations

from pathlib import Path

from picoformer.packages.description import Package
from picoformer.packages.layout import (
    EXACT,
    compiled_paths,
    example_name,
    lay_example,
    lay_pages,
    lay_sources,
    lay_texts,
)
from picoformer.packages.pages import runs_anywhere

TOOLCHAIN = "cmake/arm-none-eabi.cmake"


def write_cmake(package: Package, folder: Path) -> None:
    """The form "c"."""
    lay_sources(package, folder)
    lay_example(package, folder / "examples", f"{example_name(package)}.c")
    flags = " ".join(_core_flags(package))
    lay_texts(folder, {"CMakeLists.txt": _lists(package), TOOLCHAIN: _TOOLCHAIN.replace("@flags@", flags)})
    lay_pages(package, folder, _use(package))


def _core_flags(package: Package) -> list[str]:
    """The compiler's flags for the core that the kernels are for; those of a Cortex-M4 where they are for any."""
    target = package.board
    if target.cpu.startswith("cortex-m"):
        return [flag for flag in target.toolchain.flags if flag.startswith("-m")]
    return ["-mcpu=cortex-m4", "-mthumb"]


def _lists(package: Package) -> str:
    prefix, example = package.prefix, example_name(package)
    languages = "C ASM" if any(name.endswith(".S") for name in package.compiled()) else "C"
    sources = "\n".join(f"    {path}" for path in compiled_paths(package))
    upper = prefix.upper()
    return f"""# {package.title} as a static library, and an example where this is the project itself.
# In another project: add_subdirectory({prefix}), then target_link_libraries(your_program {prefix}).
cmake_minimum_required(VERSION 3.13)
project({prefix} {languages})

if(NOT CMAKE_BUILD_TYPE AND CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
    set(CMAKE_BUILD_TYPE Release)
endif()

add_library({prefix} STATIC
{sources}
)
set_target_properties({prefix} PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON)
target_include_directories({prefix} PUBLIC include PRIVATE src)
target_compile_options({prefix} PRIVATE $<$<COMPILE_LANGUAGE:C>:{EXACT}>)

if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
    option({upper}_EXAMPLE "Build the example" ON)
    if({upper}_EXAMPLE)
        add_executable({example} examples/{example}.c)
        set_target_properties({example} PROPERTIES C_STANDARD 99)
        target_link_libraries({example} {prefix})
    endif()
endif()
"""


_TOOLCHAIN = """# For a Cortex-M with the GNU compiler: cmake -B build -DCMAKE_TOOLCHAIN_FILE=cmake/arm-none-eabi.cmake
# -DCORE_FLAGS="-mcpu=cortex-m33 -mthumb" for another core. Your board's linker script is your project's.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_ASM_COMPILER arm-none-eabi-gcc)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CORE_FLAGS "@flags@" CACHE STRING "Flags that name the core")
set(CMAKE_C_FLAGS_INIT "${CORE_FLAGS} -ffunction-sections -fdata-sections")
set(CMAKE_ASM_FLAGS_INIT "${CORE_FLAGS}")
set(CMAKE_EXE_LINKER_FLAGS_INIT "--specs=rdimon.specs -Wl,--gc-sections")
"""


def _use(package: Package) -> str:
    prefix, example = package.prefix, example_name(package)
    here = f"""On this machine:

    cmake -B build
    cmake --build build
    build/{example}

"""
    return f"""## Use

{here if runs_anywhere(package.board) else ""}For a Cortex-M (`-DCORE_FLAGS=...` names another core):

    cmake -B build-arm -DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}
    cmake --build build-arm

In your project: `add_subdirectory({prefix})`, then `target_link_libraries(your_program {prefix})`. Without CMake:
compile every file of `src/` with `-Iinclude -Isrc -std=c99 -O2 {EXACT}`.
"""
