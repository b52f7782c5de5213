//! Messages that no kernel would send.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn garbage_is_read_without_a_panic(bytes in any::<Vec<u8>>()) {
        for message in Received::all(&bytes) {
            message.outcome();
            for (_, value) in message.attributes() {
                Attributes::new(value).into_iter().for_each(drop);
            }
        }
    }

    #[test]
    fn what_is_written_is_read(number in any::<u32>(), text in "[a-z]{0,20}", raw: Vec<u8>) {
        let mut train = Train::default();
        for kind in 0..3 {
            train.message(&Head::nftables(kind, NLM_F_ACK, 1), |m| {
                m.number(1, number);
                m.text(2, &text);
                m.nested(3, |inner| inner.bytes(7, &raw));
            });
        }
        let messages: Vec<_> = Received::all(train.as_bytes()).collect();
        prop_assert_eq!(messages.len(), 3);
        for message in messages {
            let attributes = message.attributes();
            prop_assert_eq!(attributes.number(1), Some(number));
            prop_assert_eq!(attributes.text(2), Some(text.as_str()));
            prop_assert_eq!(attributes.within(3).find(7), Some(raw.as_slice()));
        }
    }
}
