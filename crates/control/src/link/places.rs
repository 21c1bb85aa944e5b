//! Who may have a connection to the control port: places are kept for the addresses of peers, and strangers share a few.
//! Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// For each peer: the open connection, one that is about to take its place, and some of a node that was started again
/// and again within a failure timeout.
const EACH_PEER: usize = 8;

/// For each other address. Nobody of the cluster has one; it is enough to be told what is wrong.
const EACH_STRANGER: usize = 2;

/// For all other addresses together.
const STRANGERS: usize = 16;

/// The connections that there are, by where they come from.
#[derive(Debug)]
pub(super) struct Places {
    /// Of each peer's address: how many there may be, and are.
    peers: BTreeMap<IpAddr, (usize, usize)>,
    strangers: BTreeMap<IpAddr, usize>,
}

/// Whose place a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Peer,
    Stranger,
}

impl Places {
    /// None are taken. Several peers may have one address.
    pub(super) fn new(peers: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut places = BTreeMap::new();
        for address in peers {
            places.entry(address.to_canonical()).or_insert((0, 0)).0 += EACH_PEER;
        }
        Self { peers: places, strangers: BTreeMap::new() }
    }

    /// Takes a place for a connection from there, if there is one.
    pub(super) fn take(&mut self, from: IpAddr) -> Option<Place> {
        let from = from.to_canonical();
        if let Some((most, taken)) = self.peers.get_mut(&from) {
            let free = *taken < *most;
            *taken += usize::from(free);
            return free.then_some(Place::Peer);
        }
        let all: usize = self.strangers.values().sum();
        let theirs = self.strangers.get(&from).copied().unwrap_or(0);
        if all >= STRANGERS || theirs >= EACH_STRANGER {
            return None;
        }
        self.strangers.insert(from, theirs + 1);
        Some(Place::Stranger)
    }

    /// A connection from there has ended that had a place.
    pub(super) fn give_back(&mut self, from: IpAddr) {
        let from = from.to_canonical();
        if let Some((_, taken)) = self.peers.get_mut(&from) {
            *taken = taken.saturating_sub(1);
        } else if let Some(taken) = self.strangers.get_mut(&from) {
            *taken -= 1;
            if *taken == 0 {
                self.strangers.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn peer(n: u8) -> IpAddr {
        Ipv4Addr::new(10, 1, 0, n).into()
    }

    fn stranger(n: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, n).into()
    }

    proptest! {
        /// However many strangers there are, and whatever a peer's neighbour does, a peer finds a place.
        #[test]
        fn a_peer_always_finds_a_place(steps in prop::collection::vec((0u8..4, 0u8..40, any::<bool>()), 0..400)) {
            let mut places = Places::new([peer(1), peer(2)]);
            let mut open: Vec<(IpAddr, Place)> = Vec::new();
            for (who, n, comes) in steps {
                let from = if who == 0 { peer(2) } else { stranger(n) };
                if comes {
                    open.extend(places.take(from).map(|place| (from, place)));
                } else if let Some(at) = open.iter().position(|(there, _)| *there == from) {
                    open.swap_remove(at);
                    places.give_back(from);
                }
                let of = |place| open.iter().filter(|(_, theirs)| *theirs == place).count();
                prop_assert!(of(Place::Peer) <= EACH_PEER && of(Place::Stranger) <= STRANGERS);
                for n in 0..40 {
                    prop_assert!(open.iter().filter(|(there, _)| *there == stranger(n)).count() <= EACH_STRANGER);
                }
            }
            for _ in 0..EACH_PEER {
                prop_assert_eq!(places.take(peer(1)), Some(Place::Peer));
            }
            prop_assert_eq!(places.take(peer(1)), None, "but not for ever more");
        }
    }

    #[test]
    fn peers_may_share_an_address_and_a_form_of_it_is_the_same() {
        let mapped: IpAddr = "::ffff:10.1.0.1".parse().expect("an address");
        let mut places = Places::new([peer(1), peer(1)]);
        let taken = (0..).take_while(|_| places.take(mapped) == Some(Place::Peer)).count();
        assert_eq!(taken, 2 * EACH_PEER);
        places.give_back(peer(1));
        assert_eq!(places.take(mapped), Some(Place::Peer));
    }
}
