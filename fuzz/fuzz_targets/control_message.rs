//! Any bytes as a message: no panic, and what is understood can be said again and means the same.
#![no_main]

use baton_control::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::decode(bytes) {
        let mut again = Vec::new();
        message.encode(&mut again).expect("what was decoded is within its limits");
        assert_eq!(Message::decode(&again), Ok(message));
    }
});
