//! A guard that outlives its daemon where no BPF file system can be used: below `ip netns exec`, in containers. It is a filter
//! of traffic control, which the kernel keeps until somebody removes it; the next daemon's takes its place without a gap.

use std::io;
use std::os::fd::AsFd as _;

use libbpf_rs::{ProgramMut, TC_INGRESS, TcHook, TcHookBuilder};

/// How such a filter is told from others: handle and priority.
pub const GUARD_FILTER: u16 = 0xba70;

fn hook(guard: &ProgramMut<'_>, ifindex: u32) -> io::Result<TcHook> {
    let index = i32::try_from(ifindex).map_err(io::Error::other)?;
    let mut builder = TcHookBuilder::new(guard.as_fd());
    builder.ifindex(index).replace(true).handle(GUARD_FILTER.into()).priority(GUARD_FILTER.into());
    Ok(builder.hook(TC_INGRESS))
}

/// Puts it on an interface, in the place of one that is there.
pub(crate) fn put(guard: &ProgramMut<'_>, ifindex: u32) -> io::Result<()> {
    let mut hook = hook(guard, ifindex)?;
    hook.create().and_then(|mut hook| hook.attach()).map_err(io::Error::other)?;
    Ok(())
}

/// Whether some guard's filter is there.
pub(crate) fn is_there(guard: &ProgramMut<'_>, ifindex: u32) -> bool {
    hook(guard, ifindex).is_ok_and(|mut hook| hook.query().is_ok())
}
