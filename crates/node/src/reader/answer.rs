//! What Baton itself answers to a client whose connection it cannot hand off, and how that connection ends.
//! Called by the reader's tasks; knows nothing of the cluster.

use std::sync::Arc;
use std::time::Duration;

use baton_cluster::Protocol;
use baton_core::Refusal;
use baton_tls::{Alert, alert};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A client that is answered may send for so long, and so much, before its connection is closed: closing
/// at once would reset it, and the client might lose the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

fn status(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Doubtful(_) | Refusal::Alert(_) => "400 Bad Request",
        Refusal::TooSlow => "408 Request Timeout",
        Refusal::TooLong => "431 Request Header Fields Too Large",
        Refusal::Crowded | Refusal::NoServer => "503 Service Unavailable",
    }
}

fn text(refusal: Refusal) -> String {
    match refusal {
        Refusal::Doubtful(reason) => format!("The request cannot be read in one way only: {reason}."),
        Refusal::Alert(_) => "The request is not in the protocol of this port.".to_owned(),
        Refusal::TooSlow => "The request's head was not complete in time.".to_owned(),
        Refusal::TooLong => "The request's head is too long.".to_owned(),
        Refusal::Crowded => "Too many requests are waiting for the rest of their heads.".to_owned(),
        Refusal::NoServer => "No server is available for the request.".to_owned(),
    }
}

/// All that the client is sent, in the protocol that it is thought to speak.
pub(crate) fn answer(refusal: Refusal, protocol: Protocol) -> Vec<u8> {
    match (protocol, refusal) {
        (Protocol::Tls, Refusal::Alert(why)) => alert(why).to_vec(),
        (Protocol::Tls, _) => alert(Alert::InternalError).to_vec(),
        (Protocol::Http, _) => response(refusal).into_bytes(),
        (Protocol::Tcp, _) => Vec::new(),
    }
}

/// The whole response (RFC 9112).
fn response(refusal: Refusal) -> String {
    let (status, text) = (status(refusal), text(refusal) + "\n");
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

/// Answers and closes: the FIN goes at once, the socket when the client has closed too. `places` bounds
/// how many wait for that; where there is none it is closed without waiting. Without an answer the client is
/// reset.
pub(crate) async fn refuse(mut stream: TcpStream, answer: Vec<u8>, places: Arc<Semaphore>) {
    if answer.is_empty() {
        // Nothing can be said in its protocol: a RST says that the connection failed, a FIN would not.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return;
    }
    let whole = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    };
    let Ok(_place) = places.try_acquire() else {
        // The answer fits an empty send buffer.
        let _ = timeout(Duration::ZERO, whole).await;
        return;
    };
    if !matches!(timeout(LINGER, whole).await, Ok(Ok(()))) {
        return;
    }
    let mut buffer = [0; 4096];
    let mut left = LINGER_BYTES;
    let rest = async {
        while left > 0 {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => left = left.saturating_sub(length),
            }
        }
    };
    let _ = timeout(LINGER, rest).await;
}

#[cfg(test)]
mod tests {
    use baton_http::Reason;

    use super::*;

    #[test]
    fn responses_are_whole() {
        let all = [
            Refusal::Doubtful(Reason::HostTwice),
            Refusal::TooSlow,
            Refusal::TooLong,
            Refusal::Crowded,
            Refusal::NoServer,
        ];
        for refusal in all {
            let response = response(refusal);
            let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{response}");
            assert!(head.ends_with("Connection: close") && body.ends_with(".\n"), "{response}");
        }
    }

    #[test]
    fn clients_of_tls_are_told_by_an_alert() {
        let unknown = Refusal::Alert(Alert::UnrecognizedName);
        assert_eq!(answer(unknown, Protocol::Tls), [21, 3, 3, 0, 2, 2, 112]);
        for refusal in [Refusal::TooSlow, Refusal::TooLong, Refusal::Crowded, Refusal::NoServer] {
            assert_eq!(answer(refusal, Protocol::Tls), [21, 3, 3, 0, 2, 2, 80], "{refusal:?}");
            assert!(answer(refusal, Protocol::Http).starts_with(b"HTTP/1.1 "), "{refusal:?}");
        }
    }
}
