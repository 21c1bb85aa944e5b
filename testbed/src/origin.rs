//! A slow origin server, for caches to stand before: it answers every path that names a
//! [`Content`] with its body, after a delay that stands for a disk or a database. It runs on a
//! thread inside its machine's namespace.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use crate::content::Content;
use crate::host::Host;
use crate::tools::patient;

/// The longest request head taken.
const HEAD_MAX: usize = 16 * 1024;
/// How long a client may take for its head.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How much of a body is written at once.
const PIECE: usize = 64 * 1024;

/// A running origin; stopped when dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    desk: Arc<Desk>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// Starts one on a port of a machine; it waits for `delay` before each answer.
    ///
    /// # Panics
    /// When the port is taken.
    #[track_caller]
    pub fn start(host: &Host, port: u16, delay: Duration) -> Self {
        Self::start_limited(host, port, delay, Semaphore::MAX_PERMITS)
    }

    /// [`Origin::start`], but it works on at most `at_once` answers, like a disk or a database; the
    /// other requests queue.
    ///
    /// # Panics
    /// When the port is taken.
    #[track_caller]
    pub fn start_limited(host: &Host, port: u16, delay: Duration, at_once: usize) -> Self {
        let address = host.at(port);
        let desk = Arc::new(Desk {
            delay,
            places: Semaphore::new(at_once),
            requests: AtomicU64::new(0),
            spoilt: AtomicBool::new(false),
        });
        let (stop, stopped) = oneshot::channel();
        let listener = host.inside(|| std::net::TcpListener::bind(address));
        let listener = listener.unwrap_or_else(|error| panic!("no origin at {address}: {error}"));
        let same = Arc::clone(&desk);
        let thread = host.thread(move || serve_until(stopped, listener, same));
        Self { address, desk, stop: Some(stop), thread: Some(thread) }
    }

    /// From now on the last byte of every body is wrong: to test those who check bodies.
    pub fn spoil(&self) {
        self.desk.spoilt.store(true, Ordering::Relaxed);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests it has got: the misses of the caches before it.
    pub fn requests(&self) -> u64 {
        self.desk.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What all connections of an origin share.
#[derive(Debug)]
struct Desk {
    delay: Duration,
    places: Semaphore,
    requests: AtomicU64,
    spoilt: AtomicBool,
}

fn serve_until(stopped: oneshot::Receiver<()>, listener: std::net::TcpListener, desk: Arc<Desk>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs only some descriptors");
    runtime.block_on(async {
        listener.set_nonblocking(true).expect("a socket can be made nonblocking");
        let listener = TcpListener::from_std(listener).expect("the runtime takes a listener");
        let accept = async {
            loop {
                if let Ok((client, _)) = listener.accept().await {
                    let desk = Arc::clone(&desk);
                    // A client that goes away is its own business.
                    tokio::spawn(async move { serve(client, &desk).await.ok() });
                }
            }
        };
        tokio::select! {
            () = accept => {}
            _ = stopped => {}
        }
    });
}

/// One request on a connection, then its end.
async fn serve(mut client: TcpStream, desk: &Desk) -> io::Result<()> {
    let head = tokio::time::timeout(patient(HEAD_PATIENCE), head(&mut client)).await??;
    desk.requests.fetch_add(1, Ordering::Relaxed);
    let place = desk.places.acquire().await;
    tokio::time::sleep(desk.delay).await;
    drop(place);
    let Some(content) = head.split(' ').nth(1).and_then(Content::from_path) else {
        let refusal = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return client.write_all(refusal).await;
    };
    let size = content.size();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
    client.write_all(head.as_bytes()).await?;
    let mut body = content.body();
    let mut left = size;
    while let Some(piece) = body.next(PIECE) {
        left -= piece.len() as u64;
        match piece.split_last() {
            Some((last, rest)) if left == 0 && desk.spoilt.load(Ordering::Relaxed) => {
                client.write_all(rest).await?;
                client.write_all(&[!last]).await?;
            }
            _ => client.write_all(piece).await?,
        }
    }
    client.shutdown().await
}

async fn head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() > HEAD_MAX || client.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
