//! A capture at a machine's `eth0`: tcpdump runs in its namespace from `start` to `stop`, and
//! nothing that was sent in between is left out.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::flows::Analysis;
use crate::netns::Namespace;
use crate::network::Family;
use crate::owners::two_owners;
use crate::pcap;
use crate::process::Process;
use crate::scratch::unique_name;
use crate::tools::wait_until;

/// The discard port: where the marker that ends a capture goes.
const MARKER_PORT: u16 = 9;
/// Enough of each packet for all headers and for the marker.
const SNAPLEN: &str = "140";
/// Enough for the head of an answer, too, which says which server it is from.
const SNAPLEN_ANSWERS: &str = "700";
/// For tcpdump to start, or to write what it has.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running capture of the TCP traffic of one port.
#[derive(Debug)]
pub struct Capture<'a> {
    place: &'a Namespace,
    tcpdump: Process,
    file: PathBuf,
    port: u16,
}

impl<'a> Capture<'a> {
    /// Starts to capture TCP from and to `port`, and returns when it does.
    ///
    /// # Panics
    /// When tcpdump is not installed or does not start.
    #[track_caller]
    pub fn start(place: &'a Namespace, port: u16) -> Self {
        Self::start_long(place, port, SNAPLEN)
    }

    /// [`Capture::start`], with enough of each packet to tell servers by their answers.
    ///
    /// # Panics
    /// See [`Capture::start`].
    #[track_caller]
    pub fn with_answers(place: &'a Namespace, port: u16) -> Self {
        Self::start_long(place, port, SNAPLEN_ANSWERS)
    }

    #[track_caller]
    fn start_long(place: &'a Namespace, port: u16, snaplen: &str) -> Self {
        let name = unique_name("capture");
        let file = place.scratch().path().join(format!("{name}.pcap"));
        let mut command = place.command("tcpdump");
        // A large buffer, and each packet written at once; as root, since the directory is ours.
        command.args(["-i", "eth0", "-n", "-s", snaplen, "-B", "65536", "--immediate-mode", "-U"]);
        command.args(["-Z", "root", "-w"]).arg(&file);
        command.arg(format!("tcp port {port} or udp port {MARKER_PORT}"));
        let mut tcpdump = place.start(&name, command);
        let log = tcpdump.log().to_owned();
        tcpdump.wait_ready(PATIENCE, || {
            std::fs::read_to_string(&log).is_ok_and(|log| log.contains("listening on"))
        });
        Self { place, tcpdump, file, port }
    }

    /// Ends the capture and says what it has seen.
    ///
    /// # Panics
    /// When tcpdump has failed, or missed packets: counts would then be wrong.
    #[track_caller]
    pub fn stop(self) -> Analysis {
        let port = self.port;
        let file = std::fs::read(self.end()).expect("tcpdump has written its file");
        let flows = Analysis::of(pcap::records(&file).filter_map(pcap::segment), port);
        Analysis { two_owners: two_owners(pcap::records(&file), port), ..flows }
    }

    /// [`Capture::stop`], and leaves what was captured in a file, for who wants to look at it.
    ///
    /// # Panics
    /// As [`Capture::stop`], and when the file cannot be written.
    #[track_caller]
    pub fn stop_into(self, file: &Path) -> Analysis {
        let captured = self.file.clone();
        let analysis = self.stop();
        let copied = std::fs::copy(&captured, file);
        copied.unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
        analysis
    }

    /// Ends it; its file is whole then.
    #[track_caller]
    fn end(mut self) -> PathBuf {
        self.wait_for_marker();
        self.tcpdump.signal(Signal::SIGINT);
        let status = self.tcpdump.wait(PATIENCE);
        let log = self.tcpdump.log_tail();
        assert!(status.success(), "tcpdump ended with {status}:\n{log}");
        let missed = missed(&log).unwrap_or_else(|| panic!("tcpdump did not say what it missed:\n{log}"));
        assert_eq!(missed, 0, "tcpdump missed packets:\n{log}");
        std::mem::take(&mut self.file)
    }

    /// Sends a packet of our own, and waits until it is in the file: then so is all before it.
    fn wait_for_marker(&self) {
        let marker = unique_name("marker");
        let to = SocketAddr::new(self.gateway(), MARKER_PORT);
        let written = std::fs::metadata(&self.file).map_or(0, |file| file.len());
        self.place.inside(|| {
            let socket = UdpSocket::bind((Family::of(to.ip()).unspecified(), 0)).expect("a UDP socket");
            socket.send_to(marker.as_bytes(), to).expect("the router is reachable");
        });
        wait_until(PATIENCE, "end of the capture in its file", || {
            let later = self.written_after(written).unwrap_or_default();
            later.windows(marker.len()).any(|bytes| bytes == marker.as_bytes())
        });
    }

    fn written_after(&self, start: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.file)?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Of either family: the marker is no TCP.
    fn gateway(&self) -> IpAddr {
        let routes =
            ["-4", "-6"].map(|family| self.place.ip(&format!("{family} route show default"))).concat();
        let gateway = routes.split_whitespace().nth(2).and_then(|word| word.parse().ok());
        gateway.unwrap_or_else(|| panic!("no default route to send a marker to: {routes}"))
    }
}

/// From tcpdump's last words: `0 packets dropped by kernel`.
fn missed(log: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains("dropped by kernel"))?;
    line.split_whitespace().next()?.parse().ok()
}
