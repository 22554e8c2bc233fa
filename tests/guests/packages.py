# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find and download Debian's kernels, and the user space of their architectures.

In: a kernel series such as ``"6.1"`` and a flavour such as ``"arm64-16k"``. Out: a
:class:`Kernel`, a directory with its image and modules.

A kernel is looked up in the indexes of the suite that carries it and never
pinned: point releases vanish from the mirrors within weeks. The indexes of
foreign suites are kept apart from the machine's own, in the cache directory
(``$VMEMSCOPE_CACHE``, or ``~/.cache/vmemscope``), and nothing is installed on
the host. Where the mirror is comes from the machine's own apt configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

__all__ = (
    "FLAVOURS",
    "SERIES",
    "Candidate",
    "Kernel",
    "KernelNotFoundError",
    "Source",
    "cache_directory",
    "get_candidate",
    "get_kernel",
    "get_makedumpfile",
    "get_python",
    "get_qemu",
    "get_user_space",
    "look_up",
    "machine_sources",
    "newest_of",
    "unpack_packages",
)

#: kernel series: the suites that may carry it, in the order in which to look
SERIES = {
    "5.10": ("bullseye",),
    "6.1": ("bookworm",),
    "6.12": ("trixie",),
    "6.16": ("trixie-backports",),
    "6.17": ("trixie-backports",),
    "6.18": ("trixie-backports",),
    # testing keeps it for a while when unstable has moved on
    "7.2": ("sid", "forky"),
    "7.3": ("trixie-backports",),
}

#: flavours of Debian's kernels: Debian's name of the architecture
FLAVOURS = {
    "amd64": "amd64",
    "arm64": "arm64",
    "arm64-16k": "arm64",
    "powerpc64le": "ppc64el",
    "powerpc64le-64k": "ppc64el",
    "riscv64": "riscv64",
    "s390x": "s390x",
}

#: what runs in a guest of another architecture than the host's, and the suites to
#: take it from: for a while, one may lack a package of an architecture, or the mirror
#: a file that its index names
_USER_SPACE = ("busybox-static", "ndctl", "daxctl")
_USER_SPACE_SUITES = ("sid", "trixie")
#: what the package under test needs there, and the suites that have all of it
_PYTHON = (
    *("python3", "python3-drgn", "python3-msgspec", "python3-numpy", "python3-tabulate"),
    *("python3-tqdm", "coreutils", "dash", "libpcre2-8-0", "libselinux1"),
)
_PYTHON_SUITES = ("sid",)
#: the newest one, or the one before where the mirror lacks a file
_MAKEDUMPFILE_SUITES = ("sid", "trixie")
#: a QEMU that can have volatile CXL memory: 8.1 and later
_QEMU = ("qemu-system-x86", "seabios", "ipxe-qemu")
_QEMU_SUITES = ("trixie", "forky")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: names under which the Debian archive's own suites appear in a configuration
_DEBIAN_SUITES = {
    *("bullseye", "bookworm", "trixie", "forky", "sid"),
    *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
}
#: seconds to wait before each further attempt: a mirror that is in the middle
#: of an update serves indexes that do not fit together, for minutes at worst
_RETRIES = (5, 20, 60)
#: seconds for indexes, or for a kernel: a mirror that takes a request and never answers
#: stops apt for good, whatever apt's own timeouts are
_APT_SECONDS = 300


_T = TypeVar("_T")


class KernelNotFoundError(Exception):
    """A kernel can't be had from the mirror."""


@dataclass(frozen=True)
class Source:
    """An apt source, as far as it matters here."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    #: value of Signed-By: path of a keyring, or the key itself; "" for neither
    signed_by: str = ""


def cache_directory() -> Path:
    """Directory that downloads are kept in; it may not exist yet."""
    configured = os.environ.get("VMEMSCOPE_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "vmemscope"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    # Two test runs may share the cache.
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _parse_one_line(text: str) -> Iterator[Source]:
    # deb [signed-by=PATH arch=amd64] URI SUITE COMPONENT...
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            options = dict(option.partition("=")[::2] for option in (match[1] or "").split())
            yield Source(
                uris=(match[2],),
                suites=(match[3],),
                components=tuple(match[4].split()),
                signed_by=options.get("signed-by", ""),
            )


def _parse_deb822(text: str) -> Iterator[Source]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = {
            key.lower(): value.strip("\n")
            for key, value in re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", paragraph, re.M)
        }
        enabled = fields.get("enabled", "yes").strip().lower() not in ("no", "false", "0")
        if enabled and "deb" in fields.get("types", "").split():
            yield Source(
                uris=tuple(fields.get("uris", "").split()),
                suites=tuple(fields.get("suites", "").split()),
                components=tuple(fields.get("components", "").split()),
                signed_by=fields.get("signed-by", ""),
            )


def machine_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """
    Return the package sources that this machine is configured with.

    :param etc: directory of apt's configuration
    """
    parts = etc / "sources.list.d"
    sources: list[Source] = []
    for path in [etc / "sources.list", *sorted(parts.glob("*.list"))]:
        if path.is_file():
            sources += _parse_one_line(path.read_text())
    for path in sorted(parts.glob("*.sources")):
        sources += _parse_deb822(path.read_text())
    return sources


def _archives(sources: list[Source]) -> tuple[list[Source], list[Source]]:
    # The Debian archive and its security archive among a machine's sources.
    # Third parties name their suites after Debian's, too; which of several is
    # the real one is settled by apt, which checks the signature.
    main, security = [], []
    for source in sources:
        if "main" not in source.components:
            continue
        if not _DEBIAN_SUITES.isdisjoint(source.suites):
            main.append(source)
        elif any(suite.endswith(("-security", "/updates")) for suite in source.suites):
            security.append(source)
    for candidates in main, security:
        candidates.sort(key=lambda source: "debian-archive" not in source.signed_by)
    return main, security


class _Suite:
    # The indexes of one suite, in directories of their own.

    def __init__(self, name: str, arch: str = "amd64") -> None:
        self.name = name
        self.arch = arch
        directory = name if arch == "amd64" else f"{name}-{arch}"
        self._directory = cache_directory() / "apt" / directory

    def _apt(self, *command: str, cwd: Path | None = None) -> str:
        directory = self._directory
        options = {
            "APT::Architecture": self.arch,
            "APT::Architectures": self.arch,
            "APT::Default-Release": "",
            # as root, apt would want every directory to be open to user _apt
            "APT::Sandbox::User": "root",
            # the default is to exit with success when an index is stale
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::Cache": f"{directory}/cache",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::Etc::SourceList": f"{directory}/suite.sources",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": f"{directory}/lists",
            "Dir::State::Status": "/dev/null",
        }
        arguments = [argument for item in options.items() for argument in ("-o", "=".join(item))]
        return subprocess.run(
            ["timeout", str(_APT_SECONDS), command[0], *arguments, *command[1:]],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def _write_sources(self, main: Source, security: Source | None) -> None:
        stanzas = []
        for source, suite in ((main, self.name), (security, f"{self.name}-security")):
            if source is None:
                continue
            signed_by = source.signed_by or (str(_KEYRING) if _KEYRING.is_file() else "")
            stanzas.append(
                "Types: deb\n"
                f"URIs: {' '.join(source.uris)}\n"
                f"Suites: {suite}\n"
                "Components: main\n"
                f"Architectures: {self.arch}\n" + (f"Signed-By: {signed_by}\n" if signed_by else "")
            )
        (self._directory / "suite.sources").write_text("\n".join(stanzas))

    def update(self) -> None:
        # Bring the indexes up to date.
        for part in ("cache/archives/partial", "lists/partial"):
            (self._directory / part).mkdir(parents=True, exist_ok=True)
        main, security = _archives(machine_sources())
        if not main:
            raise KernelNotFoundError(
                "this machine's apt configuration names no Debian archive: the guests' kernels"
                " come from there"
            )
        # Kernels are updated in the security archive first. Unstable has none,
        # and that of an old suite is gone before the suite is.
        choices = [(archive, extra) for archive in main for extra in (*security, None)]
        for archive, extra in choices:
            self._write_sources(archive, extra)
            try:
                self._apt("apt-get", "update")
                return
            except subprocess.CalledProcessError as error:
                failure = error
        raise failure

    def show(self, package: str) -> dict[str, str]:
        # The candidate version's record; empty if there is no such package.
        try:
            text = self._apt("apt-cache", "show", "--no-all-versions", package)
        except subprocess.CalledProcessError:
            return {}
        return dict(re.findall(r"^([\w-]+): (.*)$", text, re.M))

    def closure(self, packages: Iterable[str]) -> dict[str, str]:
        # Versions of packages and of the libraries that they need, Python's included, by name.
        found: dict[str, str] = {}
        wanted = set(packages)
        while wanted:
            text = self._apt("apt-cache", "show", "--no-all-versions", *sorted(wanted))
            wanted = set()
            for record in text.split("\n\n"):
                fields = dict(re.findall(r"^([\w-]+): (.*)$", record, re.M))
                if fields:
                    found[fields["Package"]] = fields["Version"]
                    for key in ("Depends", "Pre-Depends"):
                        names = re.findall(
                            r"(?:^|, )((?:lib|zlib|python3)[^ ,:]*)", fields.get(key, "")
                        )
                        wanted.update(names)
            wanted -= found.keys()
        return found

    def releases(self, series: str, flavour: str) -> list[str]:
        # The release that the suite is at, then those of the series that it still has,
        # newest first: backports keep those that came before.
        depends = self.show(f"linux-image-{flavour}").get("Depends", "")
        current = re.findall(r"(?:^|, *)linux-image-(\d\S*)", depends)
        names = self._apt("apt-cache", "pkgnames", f"linux-image-{series}.").split()
        pattern = re.compile(rf"linux-image-([\d.]+(?:[-+](?!rt|cloud)\w+)*-{flavour})")
        older = [match[1] for name in names if (match := pattern.fullmatch(name))]
        older.sort(key=lambda release: [int(one) for one in re.findall(r"\d+", release)])
        return [*current, *older[::-1]]

    def download(self, packages: Mapping[str, str], directory: Path) -> list[Path]:
        # At once: apt reads its indexes for seconds before it does anything.
        wanted = [f"{package}={version}" for package, version in packages.items()]
        self._apt("apt-get", "download", *wanted, cwd=directory)
        return list(directory.glob("*.deb"))


@dataclass(frozen=True)
class Kernel:
    """A kernel that has been downloaded."""

    #: as in :data:`SERIES`
    series: str
    #: suite that it was found in
    suite: str
    #: what ``uname -r`` prints
    release: str
    #: version of the Debian package: builds of one release differ in it
    version: str
    #: where it is kept
    directory: Path
    #: a key of :data:`FLAVOURS`
    flavour: str = "amd64"

    @property
    def arch(self) -> str:
        """Debian's name of the architecture."""
        return FLAVOURS[self.flavour]

    @property
    def image(self) -> Path:
        """What QEMU boots: the bzImage, or what the architecture has instead."""
        # Split packages keep it among the modules. Where the kernel is not compressed,
        # it is called vmlinux.
        root, release = self.directory / "root", self.release
        for name in ("vmlinuz", "vmlinux"):
            for path in (f"boot/{name}-{release}", f"usr/lib/modules/{release}/{name}"):
                if (root / path).is_file():
                    return root / path
        raise KernelNotFoundError(f"there is no vmlinuz in the packages of {self.release}")

    @property
    def modules(self) -> Path:
        """Directory that depmod would work on, ``/lib/modules/RELEASE``."""
        for name in ("lib/modules", "usr/lib/modules"):
            if (self.directory / "root" / name / self.release / "kernel").is_dir():
                return self.directory / "root" / name / self.release
        raise KernelNotFoundError(f"there are no modules in the packages of {self.release}")

    @property
    def vmlinux(self) -> Path:
        """The uncompressed image with DWARF, downloaded when first asked for (1 GB)."""
        return self._debug_file("vmlinux")

    @property
    def system_map(self) -> Path:
        """The symbol table as text, downloaded along with the vmlinux."""
        return self._debug_file("System.map")

    @property
    def has_debug_symbols(self) -> bool:
        """Whether the suite has them: backports keep them for the newest kernels only."""
        if (self.directory / "vmlinux").is_file():
            return True
        with _locked(cache_directory()):
            return bool(_Suite(self.suite, self.arch).show(f"linux-image-{self.release}-dbg"))

    def _debug_file(self, name: str) -> Path:
        with _locked(cache_directory()):
            if not (self.directory / name).is_file():
                _retry(f"{self.series} kernel", functools.partial(_download_debug_files, self))
        return self.directory / name


def _retry(what: str, step: Callable[[], _T]) -> _T:
    # Call a function that runs apt until apt does what is wanted of it.
    for pause in (*_RETRIES, None):
        try:
            return step()
        except subprocess.CalledProcessError as error:
            if pause is None:
                raise KernelNotFoundError(
                    f"could not get the {what}: {' '.join(error.cmd[-2:])}: {error.stderr.strip()}"
                ) from error
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


@dataclass(frozen=True)
class Candidate:
    """A kernel that could be downloaded."""

    suite: str
    release: str
    version: str
    #: packages that hold its image and its modules
    packages: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """Where it is kept once it is downloaded."""
        return cache_directory() / "kernels" / f"{self.release}_{self.version}"


def _candidate(suite: _Suite, release: str) -> Candidate:
    # A kernel that a suite has.
    image = suite.show(f"linux-image-{release}")
    # Newer ones are an empty package that depends on the parts.
    parts = re.findall(
        rf"\b(linux-(?:base|binary|modules)-{re.escape(release)}) ", image.get("Depends", "")
    )
    split = f"linux-binary-{release}" in parts
    packages = tuple(parts) if split else (f"linux-image-{release}",)
    return Candidate(suite.name, release, image["Version"], packages)


def newest_of(name: str, flavour: str = "amd64") -> Candidate | None:
    """
    Look up the kernel that a suite is at, whatever its series.

    :param name: of the suite
    :return: ``None`` if the suite has none
    :raises KernelNotFoundError: if the suite can't be read
    """

    def newest() -> Candidate | None:
        suite = _Suite(name, FLAVOURS[flavour])
        suite.update()
        depends = suite.show(f"linux-image-{flavour}").get("Depends", "")
        match = re.search(r"(?:^|, *)linux-image-(\d\S*)", depends)
        return _candidate(suite, match[1]) if match else None

    with _locked(cache_directory()):
        return _retry(f"kernel of {name}", newest)


def get_candidate(found: Candidate, flavour: str = "amd64") -> Kernel:
    """Download a kernel that was looked up, if it is not there yet."""

    def download() -> None:
        packages = dict.fromkeys(found.packages, found.version)
        suite = _Suite(found.suite, FLAVOURS[flavour])
        unpack_packages(suite, packages, found.directory / "root")

    with _locked(cache_directory()):
        _retry(f"kernel {found.release}", download)
    series = ".".join(found.release.split(".")[:2])
    return Kernel(series, found.suite, found.release, found.version, found.directory, flavour)


def _candidates(series: str, flavour: str) -> Iterator[Candidate]:
    # Kernels of a series, the one to take first.
    seen, found = [], False
    for name in SERIES[series]:
        suite = _Suite(name, FLAVOURS[flavour])
        suite.update()
        releases = suite.releases(series, flavour)
        seen += [f"{name} has {release}" for release in releases]
        for release in releases:
            if release.startswith(f"{series}."):
                found = True
                yield _candidate(suite, release)
    if not found:
        raise KernelNotFoundError(
            f"Debian has no {series} kernel where it was looked for:"
            f" {', '.join(seen) or f'no linux-image-{flavour}'} (edit SERIES in {__name__})"
        )


def unpack_packages(suite: _Suite, packages: Mapping[str, str], directory: Path) -> None:
    """
    Download packages and unpack them, which is all or nothing.

    :param packages: their versions by name
    :param directory: what would be ``/``; nothing is done if it is there
    """
    if directory.is_dir():
        return
    # Renamed when complete, so that an interrupted download leaves no half of it.
    with tempfile.TemporaryDirectory(dir=cache_directory()) as temporary:
        root = Path(temporary) / "root"
        root.mkdir()
        for path in suite.download(packages, Path(temporary)):
            subprocess.run(
                ["dpkg-deb", "--extract", path, root],
                check=True,
                capture_output=True,
                text=True,
            )
        directory.parent.mkdir(parents=True, exist_ok=True)
        root.rename(directory)


def _download(series: str, flavour: str) -> Kernel:
    failure: subprocess.CalledProcessError | None = None
    for found in _candidates(series, flavour):
        suite = _Suite(found.suite, FLAVOURS[flavour])
        packages = dict.fromkeys(found.packages, found.version)
        try:
            unpack_packages(suite, packages, found.directory / "root")
        except subprocess.CalledProcessError as error:
            # For a while, a mirror may lack files of an architecture that its index names;
            # those of the release before are still there.
            failure = failure or error
            continue
        return Kernel(series, found.suite, found.release, found.version, found.directory, flavour)
    assert failure is not None
    raise failure


def _download_debug_files(kernel: Kernel) -> None:
    wanted = ("System.map", "vmlinux")
    suite = _Suite(kernel.suite, kernel.arch)
    suite.update()
    with tempfile.TemporaryDirectory(dir=kernel.directory) as temporary:
        package = {f"linux-image-{kernel.release}-dbg": kernel.version}
        (deb,) = suite.download(package, Path(temporary))
        # The package unpacks to several GB of modules: the archive is read as
        # a stream, and no further than needed.
        with (
            subprocess.Popen(
                ["dpkg-deb", "--fsys-tarfile", deb],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as process,
            tarfile.open(fileobj=process.stdout, mode="r|", bufsize=1 << 20) as archive,
        ):
            found = set()
            for member in archive:
                name = Path(member.name).name.removesuffix(f"-{kernel.release}")
                content = archive.extractfile(member) if name in wanted else None
                if content is not None:
                    with open(Path(temporary) / name, "wb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
                    found.add(name)
                if found == set(wanted):
                    break
            process.kill()
        if found != set(wanted):
            raise KernelNotFoundError(f"there is no vmlinux in {deb.name}")
        for name in wanted:
            (Path(temporary) / name).rename(kernel.directory / name)


def look_up(series: str, flavour: str = "amd64") -> Candidate:
    """
    Look up the current kernel of a series.

    :param series: a key of :data:`SERIES`
    :param flavour: a key of :data:`FLAVOURS`
    :raises KernelNotFoundError: if there is none, with the reason
    """
    with _locked(cache_directory()):
        return _retry(f"{series} kernel", lambda: next(_candidates(series, flavour)))


@functools.cache
def get_kernel(series: str, flavour: str = "amd64") -> Kernel:
    """
    Look up the current kernel of a series and download it if it is new.

    :param series: a key of :data:`SERIES`
    :param flavour: a key of :data:`FLAVOURS`
    :raises KernelNotFoundError: if it can't be had, with the reason
    """
    with _locked(cache_directory()):
        return _retry(f"{series} kernel", functools.partial(_download, series, flavour))


def _download_programs(arch: str, packages: Sequence[str], suites: Sequence[str]) -> Path:
    failure: subprocess.CalledProcessError | None = None
    for name in suites:
        suite = _Suite(name, arch)
        try:
            suite.update()
            found = suite.closure(packages)
            versions = "".join(f"{name}={version}\n" for name, version in sorted(found.items()))
            key = hashlib.sha256(versions.encode()).hexdigest()[:16]
            directory = cache_directory() / "user" / f"{arch}-{key}"
            unpack_packages(suite, found, directory)
            return directory
        except subprocess.CalledProcessError as error:
            failure = error
    assert failure is not None
    raise failure


@functools.cache
def get_user_space(arch: str) -> Path:
    """
    Download busybox, ndctl, daxctl and their libraries, and unpack them.

    :param arch: Debian's name of the architecture
    :return: the directory that would be ``/``
    :raises KernelNotFoundError: if they can't be had, with the reason
    """
    with _locked(cache_directory()):
        return _retry(
            f"user space of {arch}",
            lambda: _download_programs(arch, _USER_SPACE, _USER_SPACE_SUITES),
        )


@functools.cache
def get_makedumpfile(arch: str) -> Path:
    """
    Download makedumpfile and the libraries that it is linked with, and unpack them.

    :param arch: Debian's name of the architecture
    :return: the directory that would be ``/``
    :raises KernelNotFoundError: if it can't be had, with the reason
    """
    with _locked(cache_directory()):
        return _retry(
            f"makedumpfile of {arch}",
            lambda: _download_programs(arch, ("makedumpfile",), _MAKEDUMPFILE_SUITES),
        )


@functools.cache
def get_qemu() -> tuple[str, ...]:
    """
    Download a QEMU for x86-64 that is newer than Debian 12's, and unpack it.

    :return: the words that run it on this machine
    :raises KernelNotFoundError: if it can't be had, with the reason
    """
    with _locked(cache_directory()):
        root = _retry("QEMU", lambda: _download_programs("amd64", _QEMU, _QEMU_SUITES))
    libraries = root / "usr/lib/x86_64-linux-gnu"
    shared = root / "usr/share"
    return (
        *(str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)),
        str(root / "usr/bin/qemu-system-x86_64"),
        *("-L", str(shared / "qemu"), "-L", str(shared / "seabios")),
        *("-L", str(root / "usr/lib/ipxe/qemu")),
    )


@functools.cache
def get_python(arch: str) -> Path:
    """
    Download Python and what the package under test needs, and unpack it.

    :param arch: Debian's name of the architecture
    :return: the directory that would be ``/``, with places to mount on
    :raises KernelNotFoundError: if it can't be had, with the reason
    """
    with _locked(cache_directory()):
        root = _retry(
            f"Python of {arch}", lambda: _download_programs(arch, _PYTHON, _PYTHON_SUITES)
        )
        for name in ("proc", "sys", "dev", "run", "mnt", "tmp"):
            (root / name).mkdir(exist_ok=True)
        # where programs expect the dynamic linker, which base-files would do
        for name in ("lib", "lib64"):
            if not (root / name).is_symlink():
                (root / name).symlink_to(f"usr/{name}")
    return root
