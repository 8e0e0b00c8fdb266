"""Which peers, in which version, from where, and what is installed beside them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A peer. `package` is its requirement on the package index; without one it is taken from `address` at `commit`.

    `runs_from_checkout` says that it is a program to be read from its folder and no package to be installed.
    """

    name: str
    adapter: str
    version: str
    address: str
    commit: str = ""
    package: str = ""
    beside: tuple[str, ...] = ()
    runs_from_checkout: bool = False


PEERS = (
    Peer(
        "jpc",
        "jpc",
        "1.0.0",
        "github.com/thebuckleylab/jpc",
        "7d6cc05742d28b543311e6c4d4ca140ba996f8b5",
        beside=("jax==0.5.2", "equinox", "diffrax", "optax", "jaxtyping"),
    ),
    Peer(
        "pcx",
        "pcx",
        "0.6.3",
        "github.com/liukidar/pcx",
        package="pcx==0.6.3",
    ),
    Peer(
        "FabricPC",
        "fabricpc",
        "0.6.0",
        "github.com/trueagi-io/FabricPC",
        package="fabricpc==0.6.0",
    ),
    Peer(
        "Dual Propagation",
        "dualprop",
        "7b2595b",
        "github.com/Rasmuskh/dualprop_icml_2024",
        "7b2595b34421e1483a721dbfdeff8cdabda3a1ff",
        beside=("jax==0.10.2", "flax", "optax"),
        runs_from_checkout=True,
    ),
    Peer(
        "error_based_PC",
        "error_based_pc",
        "95c5551",
        "github.com/cgoemaere/error_based_PC",
        "95c555197699f6b4d15452451da15049946b49ca",
        beside=("torch", "lightning", "jax"),
        runs_from_checkout=True,
    ),
)
