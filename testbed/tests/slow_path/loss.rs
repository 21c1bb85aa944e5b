//! Replays that are lost, in part or for good.

use std::thread;

use baton_testbed::{Capture, Content, Dial, DocRoot, Fault, Packets, Testbed, WebServer};

use crate::{FIGURES, PAUSE, SOON, filler, get_with, reader, site};

/// 3 % of the packets lost everywhere, replays among them.
#[test]
fn cut_heads_with_loss() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).wire().without_offloads().build();
        let files = DocRoot::shared();
        let contents = [100, 3000, 60_000].map(|size| Content::new("size", size));
        contents.iter().for_each(|content| drop(files.add(content)));
        let cluster = figure.start(&bed, WebServer::nginx, &files, "");
        let capture = Capture::start(bed.client(0), 80);
        let losses = [
            bed.lose(3.0, Packets::FromClients),
            bed.lose(3.0, Packets::ToClients),
            bed.lose(3.0, Packets::BetweenNodes),
        ];
        let (bed, contents, dial) = (&bed, &contents, Dial::new(cluster.service()).patience(SOON * 4));
        thread::scope(|scope| {
            for client in 0..30_usize {
                let dial = dial.clone();
                scope.spawn(move || {
                    for round in 0..6_usize {
                        let page = &contents[(client + round) % contents.len()];
                        let request = get_with(page, &filler((client + round) % 7 * 2000));
                        let mut connection = dial.open(bed.client(0)).expect("answered");
                        let fetched = connection
                            .send_cut(&request, &[3 + client, request.len() - 2], PAUSE)
                            .and_then(|()| connection.response_of(page))
                            .and_then(|_| connection.fetch(page));
                        fetched.unwrap_or_else(|e| panic!("{figure:?}, client {client}, round {round}: {e}"));
                    }
                });
            }
        });
        assert!(losses.iter().all(|loss| loss.lost() > 0), "nothing was lost");
        drop(losses);
        assert!(reader(&cluster, "repeated") > 0, "{figure:?}: no replay was lost");
        assert_eq!(reader(&cluster, "failed"), 0, "{figure:?}");
        assert_eq!(capture.stop().early_resets(), 0, "{figure:?}");
        cluster.stop();
    }
}

/// The replay's first packet lost once; and all of them, which ends the connection at once rather than in
/// the client's own time.
#[test]
fn lost_replays() {
    for figure in FIGURES {
        let bed = Testbed::builder().figure(figure).wire().build();
        let (files, page) = site();
        let cluster = figure.start(&bed, WebServer::nginx, &files, "policy = \"wrr\"");
        let dial = Dial::new(cluster.service());
        let request = get_with(&page, &filler(5000));
        let capture = Capture::start(bed.client(0), 80);
        let loss = bed.lose_nth(1, Packets::Handoffs(6081));
        for _ in 0..6 {
            let mut connection = dial.open(bed.client(0)).expect("answered");
            connection.send_cut(&request, &[5], PAUSE).expect("sent");
            connection.response_of(&page).unwrap_or_else(|e| panic!("{figure:?}: {e}"));
        }
        assert_eq!(loss.lost(), 1, "{figure:?}");
        assert_eq!(capture.stop().early_resets(), 0, "{figure:?}");
        assert!(reader(&cluster, "repeated") > 0, "{figure:?}");
        drop(loss);

        let _loss = bed.lose(100.0, Packets::Handoffs(6081));
        let open: Vec<_> = (0..8)
            .map(|_| {
                let mut connection = dial.open(bed.client(0)).expect("answered");
                connection.send_cut(&request, &[5], PAUSE).expect("sent");
                connection
            })
            .collect();
        let mut reset = 0;
        for mut connection in open {
            match connection.response_of(&page) {
                Ok(_) => {} // from the distributor's own server
                Err(Fault::Reset) => reset += 1,
                Err(fault) => panic!("{figure:?}: {fault}"),
            }
        }
        assert!(reset > 0, "{figure:?}: nothing was handed off");
        assert_eq!(reader(&cluster, "failed"), reset, "{figure:?}");
        cluster.stop();
    }
}
