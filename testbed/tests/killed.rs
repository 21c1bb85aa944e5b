//! Daemons that are killed, stopped and started: no machine resets the clients of its cluster meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use baton_testbed::{Baton, Capture, Dial, DocRoot, Figure, Network, Testbed};

use self::hosts::{all_answered, holds, kept, pinned, running};

mod hosts;

/// The daemon of the node that clients' packets come to is killed: no client is reset, none is refused; with the daemon
/// back they go on. `named`: there is a BPF file system, in which guards have names; else filters stand for them.
fn killed(figure: Figure, named: bool) {
    let bed = Testbed::builder().figure(figure).build();
    if !named {
        bed.node(0).run("mount", ["-t", "tmpfs", "none", "/sys/fs/bpf"]);
    }
    let files = DocRoot::shared();
    let (mut cluster, page) = running(figure, &bed, &files);
    let to = cluster.service();
    let connections = kept(&bed, to, &page);
    let capture = Capture::start(bed.client(0), 80);
    let config = bed.router().scratch().path().join("cluster.toml");
    let front = cluster.batons.remove(0);
    let host = front.host();
    let left = || {
        let filters = host.run("tc", ["filter", "show", "dev", "eth0", "ingress"]);
        (pinned(host).lines().count(), filters.lines().filter(|line| line.contains("guard")).count())
    };
    let guards = if named { (1, 0) } else { (0, 1) };
    assert_eq!(left(), guards, "one interface");
    front.kill();
    assert!(holds(host, "eth0", to.ip()), "the address is there still");
    let late: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = connections
            .into_iter()
            .map(|mut c| {
                let page = &page;
                scope.spawn(move || c.fetch(page).map(|_| ()))
            })
            .collect();
        let refused = Dial::new(to).patience(Duration::from_secs(2)).open(bed.client(0));
        assert!(refused.is_err(), "nobody answers");
        cluster.batons.insert(0, Baton::start(host, &config));
        asked.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    cluster.wait_formed();
    all_answered(&bed, to, &page, 6);
    assert_eq!(capture.stop().resets(), 0);
    assert!(late.iter().all(Result::is_ok), "{late:?}");
    assert_eq!(left(), guards, "the new daemon has taken the guard over");
    cluster.stop();
    assert_eq!(left(), (0, 0), "a clean end leaves nothing");
    assert!(
        !host.run("tc", ["qdisc", "show", "dev", "eth0"]).contains("clsact"),
        "nor what a filter hung from"
    );
}

#[test]
fn a_killed_switch_resets_nobody() {
    killed(Figure::Seven, true);
}

/// As below `ip netns exec`, and in containers.
#[test]
fn without_a_bpf_file_system_a_killed_switch_resets_nobody() {
    killed(Figure::Seven, false);
}

#[test]
fn a_killed_front_resets_nobody() {
    killed(Figure::Five, true);
}

/// A server whose daemon is killed goes on with the connections that its stack has, and takes no others. On one link: what
/// comes wrapped, from behind a router, needs the programs.
#[test]
fn a_killed_server_keeps_its_connections() {
    let network = Network::from_environment().on_one_link();
    let bed = Testbed::builder().figure(Figure::Seven).network(network).build();
    let files = DocRoot::shared();
    let (mut cluster, page) = running(Figure::Seven, &bed, &files);
    let mut connections = kept(&bed, cluster.service(), &page);
    let capture = Capture::start(bed.client(0), 80);
    cluster.batons.pop().expect("the last node").kill();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        for connection in &mut connections {
            connection.fetch(&page).expect("its server has it still");
        }
    }
    assert_eq!(capture.stop().resets(), 0);
}

/// Stopped and started under new connections all the time: nobody is reset, because the programs come before the
/// address and go after it. What a router sends meanwhile by what it remembers, the guard drops.
#[test]
fn a_start_and_an_end_reset_nobody() {
    // Clients that give up close before they are answered: their request comes again with the FIN.
    let away = "conntrack takes a connection's first packet for invalid when it has a FIN";
    let bed = Testbed::builder().figure(Figure::Seven).unobserved(away).build();
    let files = DocRoot::shared();
    let (mut cluster, page) = running(Figure::Seven, &bed, &files);
    let to = cluster.service();
    let config = bed.router().scratch().path().join("cluster.toml");
    let capture = Capture::start(bed.client(0), 80);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let until = Instant::now() + Duration::from_secs(8);
            let mut answered = 0;
            while Instant::now() < until {
                let asked = Dial::new(to).patience(Duration::from_millis(300)).open(bed.client(0));
                answered += u32::from(asked.and_then(|c| c.fetch_last(&page)).is_ok());
            }
            answered
        });
        for _ in 0..2 {
            thread::sleep(Duration::from_secs(1));
            let switch = cluster.batons.remove(0);
            let host = switch.host();
            switch.stop();
            cluster.batons.insert(0, Baton::start(host, &config));
        }
        assert!(asking.join().expect("no panic") > 0);
    });
    assert_eq!(capture.stop().from_servers().resets, 0);
    cluster.stop();
}
