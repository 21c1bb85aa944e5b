//! The operators' page says what the code does.

use baton_http::Reason;

#[test]
fn the_page_gives_every_reason_by_its_sentence() {
    let page = include_str!("../../../../docs/requests.md");
    for reason in Reason::ALL {
        assert!(page.contains(&format!("| {} | {reason} |", reason as u8)), "{} {reason}", reason as u8);
    }
}

#[test]
fn reasons_are_numbered_from_one_without_gaps() {
    let numbers: Vec<u8> = Reason::ALL.iter().map(|reason| *reason as u8).collect();
    assert_eq!(numbers, (1..=30).collect::<Vec<u8>>());
}
