use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn client(n: u8) -> Option<IpAddr> {
    Some(Ipv4Addr::new(192, 0, 2, n).into())
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const OF_CLIENTS: [Sign; 3] = [Sign::Refused, Sign::NeverBegins, Sign::ResetFirst];

#[test]
fn a_port_without_listener_is_doubted_at_once_and_trusted_when_it_takes_somebody() {
    let mut judge = Judge::default();
    judge.seen(Sign::NobodyListens, client(1), false, ms(1000));
    let doubt = judge.doubt().expect("certain");
    assert_eq!(doubt, Doubt { sign: Sign::NobodyListens, count: 1, since: ms(1000) });
    judge.taken(1, ms(2000));
    judge.settle(ms(2400));
    assert!(judge.doubt().is_some(), "it may be reset yet");
    judge.settle(ms(3100));
    assert_eq!(judge.doubt(), None);
}

#[test]
fn what_was_taken_before_the_listener_ended_does_not_speak_for_it() {
    let mut judge = Judge::default();
    for n in 0..10 {
        judge.taken(5, ms(1000 + n * 100));
    }
    judge.seen(Sign::NobodyListens, client(1), false, ms(2000));
    for n in 0..30 {
        judge.settle(ms(2000 + n * 100));
        assert!(judge.doubt().is_some(), "{n}");
    }
}

#[test]
fn three_signs_of_several_clients_convince_and_those_of_one_after_a_while() {
    for sign in OF_CLIENTS {
        let mut judge = Judge::default();
        for n in 0..3 {
            assert_eq!(judge.doubt(), None);
            judge.seen(sign, client(n), false, ms(1000));
        }
        assert!(judge.doubt().is_some());

        let mut judge = Judge::default();
        for n in 0..10 {
            judge.seen(sign, client(1), false, ms(1000 + n * 99));
            assert_eq!(judge.doubt(), None, "one client alone, within a second");
        }
        judge.seen(sign, client(1), false, ms(2000));
        assert!(judge.doubt().is_some());
    }
}

#[test]
fn connections_that_are_reset_after_a_word_have_not_lasted() {
    let mut judge = Judge::default();
    for n in 0..8 {
        let now = ms(1000 + 300 * n);
        judge.taken(1, now);
        judge.seen(Sign::ResetFirst, client(n as u8), true, now + ms(200));
    }
    assert!(judge.doubt().is_some(), "all are taken, and all are reset");
    judge.taken(2, ms(4000));
    judge.seen(Sign::ResetFirst, client(1), true, ms(4100));
    judge.settle(ms(4600));
    judge.settle(ms(5200));
    assert_eq!(judge.doubt(), None, "one of two has lasted");
}

#[test]
fn signs_far_apart_are_faults_of_their_own() {
    let mut judge = Judge::default();
    for n in 0..20 {
        judge.seen(Sign::NeverBegins, client(n), false, Duration::from_secs(31 * u64::from(n)));
        assert_eq!(judge.doubt(), None);
    }
}

/// What happens at a server: each step so many milliseconds after the one before.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fails(u8, u8),
    Taken,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![(0u8..3, 0u8..5).prop_map(|(s, c)| Step::Fails(s, c)), Just(Step::Taken)];
    prop::collection::vec((0u64..2000, step), 0..200)
}

proptest! {
    /// However many clients fail, and whoever they are: a server that keeps taking others is never doubted for long.
    #[test]
    fn a_server_that_takes_somebody_is_trusted(steps in steps(), then in 0u64..1000) {
        let (mut judge, mut now) = (Judge::default(), ms(1000));
        for (after, step) in steps {
            now += ms(after);
            match step {
                Step::Fails(sign, n) => {
                    judge.seen(OF_CLIENTS[usize::from(sign)], client(n), false, now);
                }
                Step::Taken => judge.taken(1, now),
            }
        }
        judge.taken(1, now + ms(then));
        judge.settle(now + ms(then) + LASTS);
        judge.settle(now + ms(then) + 2 * LASTS);
        prop_assert_eq!(judge.doubt(), None);
    }

    /// While one client is well served each second, nobody else makes the server doubted.
    #[test]
    fn nobody_talks_a_working_server_down(
        signs in prop::collection::vec((0u64..300, 0u8..3, 0u8..9), 1..100),
    ) {
        let (mut judge, mut now, mut served) = (Judge::default(), ms(10_000), ms(9_000));
        judge.taken(1, served);
        for (after, sign, n) in signs {
            now += ms(after);
            while served + ms(900) <= now {
                served += ms(900);
                judge.taken(1, served);
            }
            judge.seen(OF_CLIENTS[usize::from(sign)], client(n), false, now);
            prop_assert_eq!(judge.doubt(), None);
        }
    }

    /// A server that takes nobody is doubted as soon as its clients have failed for a second.
    #[test]
    fn a_server_that_takes_nobody_is_doubted(
        signs in prop::collection::vec((0u64..900, 0u8..3, 0u8..5), 3..100),
    ) {
        let (mut judge, mut now) = (Judge::default(), ms(1000));
        for (after, sign, n) in signs {
            now += ms(after);
            judge.seen(OF_CLIENTS[usize::from(sign)], client(n), false, now);
        }
        judge.seen(Sign::NeverBegins, client(9), false, now + ms(1000));
        prop_assert!(judge.doubt().is_some());
    }
}
