//! Any bytes, no panic; and the decoder against the simplest one there is.

use proptest::prelude::*;
use turnpike_api::client::decode;
use turnpike_api::serve::{RequestDecoder, decode_request};
use turnpike_api::{ErrorBody, FlowData, Request, StatusData};

/// Lines like those of a client: whole requests, requests with a byte changed, blanks, noise.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let examples: Vec<Request> = serde_json::from_str(include_str!("golden/requests.json")).unwrap();
    let lines: Vec<Vec<u8>> = examples.iter().map(|request| serde_json::to_vec(request).unwrap()).collect();
    let whole = prop::sample::select(lines);
    let mutated =
        (whole.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut line, at, byte)| {
            let at = at.index(line.len());
            line[at] = byte;
            line
        });
    prop_oneof![
        3 => whole,
        3 => mutated,
        1 => Just(b"  ".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..80),
    ]
}

fn decode_in_chunks(stream: &[u8], chunk: usize) -> Vec<Result<Request, ErrorBody>> {
    let mut decoder = RequestDecoder::default();
    let mut decoded = Vec::new();
    for mut part in stream.chunks(chunk) {
        while let Some(request) = decoder.next(&mut part) {
            decoded.push(request);
        }
        assert!(part.is_empty());
    }
    decoded
}

proptest! {
    #[test]
    fn a_stream_decodes_as_its_lines_do(lines in prop::collection::vec(line(), 0..12), chunk in 1..400usize) {
        let stream = lines.iter().flat_map(|line| line.iter().chain(b"\n")).copied().collect::<Vec<_>>();
        let expected: Vec<_> = stream
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
            .map(decode_request)
            .collect();
        prop_assert_eq!(decode_in_chunks(&stream, chunk), expected);
    }

    #[test]
    fn what_decodes_is_in_range_and_comes_back(line in line()) {
        if let Ok(request) = decode_request(&line) {
            prop_assert_eq!(request.check(), Ok(()));
            let again = serde_json::to_vec(&request).unwrap();
            prop_assert_eq!(decode_request(&again), Ok(request));
        }
    }

    #[test]
    fn answers_of_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode::<StatusData>(&bytes).is_err());
    }

    #[test]
    fn answers_with_a_byte_changed(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut answer = include_bytes!("golden/flows.json").to_vec();
        let at = at.index(answer.len());
        answer[at] = byte;
        // Sound or refused, but never a panic.
        if let Ok(envelope) = decode::<Vec<FlowData>>(&answer) {
            prop_assert_eq!(envelope.schema, "turnpike.flows.v1");
        }
    }
}
