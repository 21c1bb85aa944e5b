//! The operators' page says what the code does.

use baton_tls::HelloError;

#[test]
fn the_page_gives_every_reason_with_its_alert() {
    let page = include_str!("../../../../docs/tls.md");
    for reason in HelloError::ALL {
        let row = format!("| {reason} | {} |", reason.alert() as u8);
        assert!(page.contains(&row), "{row}");
    }
}
