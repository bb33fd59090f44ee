"""Where the named data sets are published, and the checksums that their files must have.

MD5 where that is what publishers and the common loaders have pinned for years: MNIST, Fashion-MNIST, CIFAR-10
and GTSRB's test files are those that torchvision checks; the one of GTSRB's training images is the same
in six unrelated public projects. It tells a damaged or different file. For Penn-Fudan none is published:
it is fetched only against a SHA-256 that the user brings.
"""

from dataclasses import dataclass

from crossbar_sim.data.places import (
    CIFAR10_ARCHIVE,
    CIFAR10_FOLDER,
    GTSRB_TABLE,
    IDX_FOLDERS,
    PENNFUDAN_FOLDER,
)


@dataclass(frozen=True)
class Resource:
    """One file to fetch.

    Args:
        file: its name below the base address.
        checksum: "md5:..." or "sha256:..."; None: not known.
        place: where it goes below the folder of data sets, or, for an archive, where `member` goes.
        member: what to take out of the archive, a folder or a file; None: the file is kept as it is.
    """

    file: str
    checksum: str | None
    place: str
    member: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set is published.

    Args:
        base: the address that file names are put behind.
        resources: its files, in the order of fetching.
        terms: what to know before using it.
    """

    base: str
    resources: tuple[Resource, ...]
    terms: str


def _idx(name: str, checksums: dict[str, str]) -> tuple[Resource, ...]:
    return tuple(
        Resource(f"{file}.gz", f"md5:{md5}", f"{IDX_FOLDERS[name]}/raw/{file}.gz")
        for file, md5 in checksums.items()
    )


_MNIST = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FASHION = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
_GTSRB = (
    Resource(
        "GTSRB_Final_Training_Images.zip",
        "md5:f33fd80ac59bff73c82d25ab499e03a3",
        "GTSRB/Final_Training",
        "GTSRB/Final_Training",
    ),
    Resource(
        "GTSRB_Final_Test_Images.zip",
        "md5:c7e4e6327067d32654124b0fe9e82185",
        "GTSRB/Final_Test",
        "GTSRB/Final_Test",
    ),
    Resource(
        "GTSRB_Final_Test_GT.zip",
        "md5:fe31e9c9270bbcd7b84b7f21a9d9d9e5",
        f"GTSRB/{GTSRB_TABLE}",
        GTSRB_TABLE,
    ),
)

SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        _idx("mnist", _MNIST),
        "LeCun, Cortes and Burges, The MNIST database of handwritten digits",
    ),
    "fashion-mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        _idx("fashion-mnist", _FASHION),
        "Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017; MIT licence",
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        (Resource(CIFAR10_ARCHIVE, "md5:c58f30108f718f92721af3b95e74349a", CIFAR10_FOLDER, CIFAR10_FOLDER),),
        "cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    "gtsrb": Source(
        "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/",
        _GTSRB,
        "cite Stallkamp et al., Man vs. computer, Neural Networks 32, 2012",
    ),
    "pennfudan": Source(
        "https://www.cis.upenn.edu/~jshi/ped_html/",
        (Resource("PennFudanPed.zip", None, PENNFUDAN_FOLDER, PENNFUDAN_FOLDER),),
        "cite Wang et al., Object detection combining recognition and segmentation, ACCV 2007",
    ),
}
