"""The rules of the places that packages go to, as their documents state them: each checker lists what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

PAGES = ("README.md", "LICENSE", "MODEL_CARD.md", "model_card.json")
SEMVER = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")


def pages(folder: Path) -> list[str]:
    """What every package has beside its form's own files."""
    wrong = [f"no {name}" for name in PAGES if not (folder / name).is_file()]
    if not wrong:
        readme, licence = (folder / "README.md").read_text(), (folder / "LICENSE").read_text()
        wrong += [] if "Apache License" in licence and "Version 2.0" in licence else ["LICENSE is not Apache 2.0"]
        wrong += [] if "weights" in readme and "yours" in readme else ["README does not say whose the weights are"]
        wrong += [f"{link} in README leads nowhere" for link in re.findall(r"\]\(([^)]+)\)", readme)
                  if not (folder / link).is_file()]  # fmt: skip
    return wrong


def arduino(folder: Path) -> list[str]:
    """Arduino library specification 1.5, revision 2.2: library metadata, layout of folders and files, keywords."""
    properties = dict(line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines())
    required = ("name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures")
    wrong = [f"library.properties: no {key}" for key in required if not properties.get(key)]
    name = properties.get("name", "")
    wrong += [] if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}", name) else [f"name '{name}'"]
    wrong += [] if SEMVER.fullmatch(properties.get("version", "")) else ["version"]
    categories = ("Display", "Communication", "Signal Input/Output", "Sensors", "Device Control", "Timing",
                  "Data Storage", "Data Processing", "Other")  # fmt: skip
    wrong += [] if properties.get("category") in categories else ["category"]
    wrong += [] if re.fullmatch(r"https?://\S+", properties.get("url", "")) else ["url"]
    includes = [item.strip() for item in properties.get("includes", "").split(",")]
    wrong += [f"includes {item}, which src/ has not" for item in includes if not (folder / "src" / item).is_file()]
    known = ("library.properties", "keywords.txt", "src", "examples", "extras", *PAGES)
    wrong += [f"{path.name} beside src/" for path in folder.iterdir() if path.name not in known]
    sketches = sorted((folder / "examples").iterdir())
    wrong += [] if sketches else ["no example"]
    wrong += [f"example {path.name} has no sketch of its name" for path in sketches
              if not (path / f"{path.name}.ino").is_file()]  # fmt: skip
    wrong += [f"{path.name} is no name for a sketch" for path in sketches
              if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", path.name)]  # fmt: skip
    header = "\n".join(path.read_text() for path in (folder / "src").glob("*.h"))
    for line in (folder / "keywords.txt").read_text().splitlines():
        word, _, kind = line.partition("\t")
        if kind not in ("KEYWORD1", "KEYWORD2", "LITERAL1") or not re.search(rf"\b{word}\b", header):
            wrong.append(f"keywords.txt: {line!r}")
    return wrong


def platformio(folder: Path) -> list[str]:
    """library.json as PlatformIO documents its fields."""
    found: dict[str, Any] = json.loads((folder / "library.json").read_text())
    known = {"name", "version", "description", "keywords", "homepage", "repository", "authors", "license", "frameworks",
             "platforms", "headers", "examples", "dependencies", "export", "scripts", "build"}  # fmt: skip
    wrong = [f"field {key} is not known" for key in found if key not in known]
    name = found.get("name", "")
    is_slug = re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) <= 50
    wrong += [] if is_slug else [f"name {name!r}"]
    wrong += [] if SEMVER.fullmatch(found.get("version", "")) and len(found["version"]) <= 20 else ["version"]
    wrong += [] if 0 < len(found.get("description", "")) <= 255 else ["description"]
    build = found.get("build", {})
    options = {"flags", "unflags", "includeDir", "srcDir", "srcFilter", "extraScript", "libArchive", "libLDFMode",
               "libCompatMode", "builder"}  # fmt: skip
    wrong += [f"build option {key}" for key in build if key not in options]
    wrong += [f"no folder {build.get(key)}" for key in ("includeDir", "srcDir") if not (folder / build[key]).is_dir()]
    wrong += [f"no header {name}" for name in found["headers"] if not (folder / build["includeDir"] / name).is_file()]
    for example in found["examples"]:
        wrong += [f"no {example['base']}/{name}" for name in example["files"]
                  if not (folder / example["base"] / name).is_file()]  # fmt: skip
        listed = {str(path.relative_to(folder / example["base"])) for path in (folder / example["base"]).rglob("*.*")}
        wrong += [f"example does not list {name}" for name in sorted(listed - set(example["files"]))]
    return wrong


def esp_idf(folder: Path) -> list[str]:
    """A component: CMakeLists.txt, a manifest by the component manager's schema, an example that is a project."""
    manifest = yaml.safe_load((folder / "idf_component.yml").read_text())
    known = {"version", "description", "url", "license", "targets", "dependencies", "maintainers", "tags", "examples",
             "files", "repository", "documentation", "issues", "discussion"}  # fmt: skip
    wrong = [f"idf_component.yml: {key}" for key in manifest if key not in known]
    wrong += [] if SEMVER.fullmatch(manifest.get("version", "")) else ["version"]
    wrong += [] if isinstance(manifest.get("description"), str) else ["description"]
    wrong += [] if "idf_component_register(" in (folder / "CMakeLists.txt").read_text() else ["not registered"]
    examples = sorted((folder / "examples").iterdir())
    wrong += [] if examples else ["no example"]
    for example in examples:
        text = (example / "CMakeLists.txt").read_text()
        order = [text.find(word) for word in ("cmake_minimum_required(", "/tools/cmake/project.cmake)", "\nproject(")]
        wrong += [] if -1 not in order and order == sorted(order) else [f"{example.name}: CMakeLists.txt"]
        wrong += [] if "app_main(" in (example / "main" / "main.c").read_text() else [f"{example.name}: no app_main"]
        extra = re.search(r'EXTRA_COMPONENT_DIRS "([^"]+)"', text)
        wrong += [] if extra and (example / extra[1]).resolve() == folder.resolve() else [f"{example.name}: component"]
    return wrong


def zephyr(folder: Path) -> list[str]:
    """A module: zephyr/module.yml by its schema, Kconfig, CMakeLists.txt, and samples as Twister takes them."""
    module = yaml.safe_load((folder / "zephyr" / "module.yml").read_text())
    known = {"name", "build", "tests", "samples", "boards", "blobs", "security", "package-managers", "runners"}
    wrong = [f"module.yml: {key}" for key in module if key not in known]
    build = module.get("build", {})
    wrong += [f"module.yml: build: {key}" for key in build if key not in {"cmake", "kconfig", "depends", "settings"}]
    wrong += [] if (folder / build["cmake"] / "CMakeLists.txt").is_file() else ["no CMakeLists.txt"]
    kconfig = (folder / build["kconfig"]).read_text()
    options = re.findall(r"^config ([A-Z0-9_]+)\n\tbool \"[^\"]+\"\n\thelp\n(?:\t  .+\n)+", kconfig, re.MULTILINE)
    wrong += [] if len(options) == 1 else [f"Kconfig: {options}"]
    wrong += (
        [] if f"if(CONFIG_{options[0]})" in (folder / build["cmake"] / "CMakeLists.txt").read_text() else ["option"]
    )
    for place in module["samples"]:
        samples = sorted((folder / place).iterdir())
        wrong += [] if samples else ["no sample"]
        for sample in samples:
            wrong += _sample(sample, options[0])
    return wrong


def _sample(sample: Path, option: str) -> list[str]:
    settings = (sample / "prj.conf").read_text().splitlines()
    wrong = [f"prj.conf: {line}" for line in settings if not re.fullmatch(r"CONFIG_[A-Z0-9_]+=\w+", line)]
    wrong += [] if f"CONFIG_{option}=y" in settings else ["prj.conf does not switch the module on"]
    described = yaml.safe_load((sample / "sample.yaml").read_text())
    wrong += [] if {"name", "description"} == set(described["sample"]) else ["sample.yaml: sample"]
    for name, test in described["tests"].items():
        wrong += [] if re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", name) else [f"sample.yaml: test {name}"]
        wrong += [] if test["harness"] == "console" and test["harness_config"]["type"] == "one_line" else ["harness"]
        shown = (sample / "src" / "main.c").read_text()
        wrong += [f"never prints {text!r}" for text in test["harness_config"]["regex"] if text not in shown]
    text = (sample / "CMakeLists.txt").read_text()
    order = [text.find(word) for word in ("cmake_minimum_required(", "EXTRA_ZEPHYR_MODULES", "find_package(Zephyr",
                                          "\nproject(", "target_sources(app PRIVATE src/main.c)")]  # fmt: skip
    return wrong + ([] if -1 not in order and order == sorted(order) else ["sample: CMakeLists.txt"])


_RESTRICTED = re.compile(r"[-_A-Za-z0-9]+")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+()'/\-\s.]{1,31}")
_SUB = re.compile(r"([A-Za-z0-9][A-Za-z0-9_+():/\- .]{0,31})?")
_CATEGORIES = {"doc", "header", "include", "library", "object", "source", "linkerScript", "utility", "image", "other"}
_CORES = {"Cortex-M0", "Cortex-M0+", "Cortex-M1", "Cortex-M3", "Cortex-M4", "Cortex-M7", "Cortex-M23", "Cortex-M33",
          "Cortex-M35P", "Cortex-M52", "Cortex-M55", "Cortex-M85"}  # fmt: skip


def cmsis_pack(folder: Path) -> list[str]:
    """The description by the rules of PACK.xsd 1.7.32, and that every file of the pack is named and there."""
    (description,) = folder.glob("*.pdsc")
    root = ElementTree.fromstring(description.read_text())
    child = {element.tag: element for element in root}
    wrong = [f"no <{tag}>" for tag in ("vendor", "name", "description", "url", "license", "releases", "components")
             if tag not in child]  # fmt: skip
    wrong += [f"<{tag}> twice" for tag in child if len(root.findall(tag)) > 1]
    vendor, name = root.findtext("vendor", ""), root.findtext("name", "")
    wrong += [f"{text!r} is restricted" for text in (vendor, name) if not _RESTRICTED.fullmatch(text)]
    wrong += [] if description.name == f"{vendor}.{name}.pdsc" else [f"file name {description.name}"]
    wrong += [] if re.fullmatch(r"\d+\.\d+(\.\d+)?", root.get("schemaVersion", "")) else ["schemaVersion"]
    wrong += [] if (folder / root.findtext("license", "?")).is_file() else ["license"]
    releases = root.findall("releases/release")
    wrong += [] if releases and all(SEMVER.fullmatch(r.get("version", "")) for r in releases) else ["releases"]
    conditions = {condition.get("id"): condition for condition in root.findall("conditions/condition")}
    filters = {"Dcore": _CORES, "Ddsp": {"DSP", "NO_DSP"}, "Dmve": {"MVE", "FP_MVE", "NO_MVE"}}
    for condition in conditions.values():
        for rule in condition:
            wrong += [f"condition: {rule.tag}"] if rule.tag not in ("description", "accept", "require", "deny") else []
            wrong += [f"{key}={value}" for key, value in rule.attrib.items() if value not in filters.get(key, ())]
    components = root.findall("components/component")
    wrong += [] if len(components) == 1 else ["components"]
    for part in components:
        wrong += [key for key in ("Cclass", "Cgroup") if not _PART.fullmatch(part.get(key, ""))]
        wrong += [] if _SUB.fullmatch(part.get("Csub", "")) else ["Csub"]
        wrong += [] if SEMVER.fullmatch(part.get("Cversion", "")) else ["Cversion"]
        wrong += [] if part.get("condition") in conditions else ["condition is not defined"]
        wrong += [] if part.find("description") is not None else ["component without a description"]
        named = set()
        for file in part.findall("files/file"):
            place = folder / file.get("name", "?")
            named.add(place)
            is_folder = file.get("category") == "include"
            wrong += [] if (place.is_dir() if is_folder else place.is_file()) else [f"no {place}"]
            wrong += [] if is_folder == file.get("name", "").endswith("/") else [f"{place}: folder"]
            wrong += [] if file.get("category") in _CATEGORIES else [f"category {file.get('category')}"]
            wrong += [] if file.get("scope", "public") in ("public", "private") else ["scope"]
            wrong += [] if file.get("language", "c") in ("c", "asm", "cpp", "c-cpp", "link") else ["language"]
            wrong += [] if file.get("attr", "template") in ("config", "template") else ["attr"]
        there = {path for place in ("include", "src", "examples") for path in (folder / place).rglob("*.*")}
        wrong += [f"{path} is not in the pack" for path in sorted(there - named)]
    return wrong
