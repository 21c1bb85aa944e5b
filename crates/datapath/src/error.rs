//! What can go wrong between user space and the packet path.

/// An error of the packet path; each says what the operator can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    /// The kernel refused the programs.
    #[error(
        "the kernel refused the eBPF programs: {source}\n  {log}\n  help: run `baton doctor`; Linux 6.9 or newer is needed, and root, or CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON"
    )]
    Load {
        /// libbpf's word on it.
        source: libbpf_rs::Error,
        /// The end of what libbpf and the verifier said.
        log: String,
    },
    /// A program could not be attached to an interface.
    #[error(
        "cannot attach the {program} program to interface {ifindex}: {source}\n  help: Linux 6.6 or newer has tcx; is the interface still there?"
    )]
    Attach {
        /// Which program.
        program: &'static str,
        /// The interface's number.
        ifindex: u32,
        /// The system's error.
        source: std::io::Error,
    },
    /// The program that looks at all sockets could not be attached.
    #[error(
        "cannot attach the carry_cwnd program to the machine's control groups: {source}\n  help: mount -t cgroup2 cgroup2 /sys/fs/cgroup (below `ip netns exec` it is hidden)"
    )]
    Sockets {
        /// The system's error.
        source: std::io::Error,
    },
    /// The device that holds packets could not be made.
    #[error(
        "cannot make the hold device {name}: {source}\n  help: /dev/net/tun and CAP_NET_ADMIN are needed (modprobe tun)"
    )]
    Hold {
        /// Its name.
        name: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A map refused a read or a write.
    #[error("table {table}: {source}")]
    Table {
        /// The map's name.
        table: &'static str,
        /// libbpf's word on it.
        source: libbpf_rs::Error,
    },
    /// More of something than the tables have room for.
    #[error("{what}: {given} given, at most {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        given: usize,
        /// How many at most.
        limit: usize,
    },
}
