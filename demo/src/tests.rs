//! The demo on a site that is not as it should be: it must notice. These need root, as it does.

use std::fs;
use std::net::IpAddr;

use baton_testbed::{Content, Dial, DocRoot, Scratch, WebServer};

use super::account::Account;
use super::site::{Site, VIP};
use super::stop::Stop;
use super::{Demo, caught};

#[test]
fn a_wrong_byte_in_the_origin_fails_the_demo() {
    let site = Site::build();
    site.origin().spoil();
    let folder = Scratch::new("demo");
    let json = folder.path().join("summary.json");
    let demo = Demo { seconds: 2, failure_timeout: 1000, keep: false, json: json.clone(), capture: None };
    let failure = demo.play(&site, &Stop::default()).expect_err("bodies were wrong");
    assert!(format!("{failure:?}").contains("exit: Failed"), "{failure:?}");
    let text = fs::read_to_string(json).expect("a summary all the same");
    let summary: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(summary["body_errors"].as_u64().is_some_and(|n| n > 0), "{text}");
    assert!(summary["problems"][0].as_str().is_some_and(|what| what.contains("bodies")), "{text}");
}

#[test]
fn answers_that_take_the_way_through_the_switch_or_a_node_are_counted() {
    let site = Site::build();
    let [server, other, ..] = site.nodes() else { panic!("there are four nodes") };
    let page = Content::new("demo", 200_000);
    let files = DocRoot::shared();
    files.add(&page);
    let _server = WebServer::nginx(server, &files);
    // No Baton: the router sends what is for the VIP straight to this node.
    server.hold_vip(VIP);
    site.router().ip(&format!("route replace {VIP}/32 via {}", server.address()));
    let account = Account::open(&site);
    let fetch_by = |gateway: IpAddr| {
        server.ip(&format!("route replace default via {gateway}"));
        let connection = Dial::new((VIP, 80)).open(site.client()).expect("a connection");
        connection.fetch_last(&page).expect("the page");
        account.read()
    };
    let straight = fetch_by(site.router().address());
    assert!(straight.served > page.size(), "{straight:?}");
    assert_eq!((straight.through_switch, straight.through_distributors, straight.resets), (0, 0, 0));
    for host in [site.switch(), other] {
        host.sysctl("net.ipv4.ip_forward", "1");
    }
    let by_switch = fetch_by(site.switch().address());
    assert!(by_switch.through_switch > page.size(), "{by_switch:?}");
    assert_eq!(by_switch.through_distributors, 0, "{by_switch:?}");
    let by_node = fetch_by(other.address());
    assert!(by_node.through_distributors > page.size(), "{by_node:?}");
    assert_eq!(by_node.through_switch, by_switch.through_switch, "{by_node:?}");
}

#[test]
fn what_cannot_be_set_up_is_a_message_and_not_a_panic() {
    let failure = caught(|| panic!("install {}", "nginx")).expect_err("it has failed");
    let told = format!("{failure:?}");
    assert!(told.contains("exit: Failed") && told.contains("install nginx"), "{told}");
}
