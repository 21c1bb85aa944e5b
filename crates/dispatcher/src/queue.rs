//! Whether a web server takes the connections that wait for it: looks at its accept queue in, a doubt out. A kernel
//! establishes connections for a program that hangs until the queue is full, so packets alone do not show it.
//!
//! A slow answer is no sign: a web server that thinks has taken its connection out of the queue. One that takes only one at a
//! time, and thinks for long, is doubted while others wait for it: any other server is better for these.

use std::time::Duration;

use baton_cluster::Sign;

use crate::Doubt;

/// A queue that has not moved for so long stands.
const STANDS_FOR: Duration = Duration::from_secs(2);

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub struct AcceptQueue {
    /// The connections that the kernel had taken until the last look.
    taken: u64,
    /// How it was when it was last seen to move.
    stands: Option<Standstill>,
    doubt: Option<Doubt>,
}

#[derive(Clone, Copy, Debug)]
struct Standstill {
    since: Duration,
    /// At most so many had been taken out until then.
    out: i128,
}

impl AcceptQueue {
    /// A look: so many connections waited, and so many has the kernel taken since the node's start, until a moment later.
    pub fn look(&mut self, waiting: u32, taken: u64, now: Duration) {
        // What came between the look and the count waits, too, and is not known to: of what was there before the look, so many
        // at least have been taken out.
        let out = i128::from(std::mem::replace(&mut self.taken, taken)) - i128::from(waiting);
        let stands = self.stands.take().filter(|stands| out <= stands.out);
        if waiting == 0 || stands.is_none() {
            self.doubt = None;
        }
        if waiting == 0 {
            return;
        }
        let at_most = i128::from(taken) - i128::from(waiting);
        let stands = stands.unwrap_or(Standstill { since: now, out: at_most });
        self.stands = Some(stands);
        if now.saturating_sub(stands.since) >= STANDS_FOR {
            self.doubt = Some(Doubt { sign: Sign::QueueStands, count: waiting, since: stands.since });
        }
    }

    /// Why the server is doubted, if it is.
    pub fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubted(looks: &[(u32, u64)]) -> bool {
        let mut queue = AcceptQueue::default();
        for (second, (waiting, taken)) in looks.iter().enumerate() {
            queue.look(*waiting, *taken, Duration::from_secs(second as u64));
        }
        queue.doubt().is_some()
    }

    #[test]
    fn a_queue_that_stands_is_doubted_and_one_that_moves_is_not() {
        assert!(doubted(&[(0, 10), (3, 13), (3, 13), (4, 14), (4, 14)]));
        assert!(doubted(&[(0, 10), (2, 13), (30, 33), (30, 33), (30, 33)]), "counted a moment later");
        assert!(doubted(&[(2, 10), (2, 10), (2, 10), (2, 10)]), "others' connections, too");
        assert!(!doubted(&[(0, 10), (1, 11), (3, 13)]), "not long enough");
        assert!(!doubted(&[(0, 10), (5, 15), (5, 20), (5, 25), (5, 30), (5, 35)]), "busy, and it takes them");
        assert!(!doubted(&[(0, 10), (5, 15), (5, 15), (5, 15), (5, 15), (4, 15)]), "it takes one now");
        assert!(!doubted(&[(0, 10), (5, 15), (5, 15), (5, 15), (5, 15), (0, 15)]), "it works again");
        assert!(!doubted(&[(0, 10); 9]), "nobody comes");
    }
}
