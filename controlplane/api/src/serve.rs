//! The serving side: request lines in, response lines out. No I/O.

use crate::envelope::ErrorEnvelope;
use crate::{Envelope, ErrorBody, ErrorCode, MAX_REQUEST, Payload, Request};

/// Decodes and checks one line, with or without its newline.
///
/// # Errors
/// [`ErrorCode::BadRequest`] if it is longer than [`MAX_REQUEST`], not JSON, not a request, or a value is
/// out of range.
pub fn decode_request(line: &[u8]) -> Result<Request, ErrorBody> {
    if line.len() > MAX_REQUEST {
        return Err(too_long());
    }
    let request: Request = serde_json::from_slice(line).map_err(|error| {
        ErrorBody::new(ErrorCode::BadRequest, format!("not a request: {error}"))
            .with_hint("one JSON object a line, as turnpike of the same release sends")
    })?;
    request.check()?;
    Ok(request)
}

fn too_long() -> ErrorBody {
    ErrorBody::new(ErrorCode::BadRequest, format!("the request line is longer than {MAX_REQUEST} bytes"))
}

/// Cuts a stream into requests. Holds at most [`MAX_REQUEST`] bytes; the rest of a longer line is skipped,
/// and the line answered with one error.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    line: Vec<u8>,
    skipping: bool,
}

impl RequestDecoder {
    /// Takes bytes from the front of `input` up to the end of a line, or all of them.
    /// `None` once `input` is used up without one: read more.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Result<Request, ErrorBody>> {
        loop {
            let end = input.iter().position(|&byte| byte == b'\n');
            let (part, rest) = match end {
                Some(end) => (input.get(..end)?, input.get(end + 1..)?),
                None => (*input, &[][..]),
            };
            *input = rest;
            let overlong = self.line.len() + part.len() >= MAX_REQUEST;
            let report = overlong && !self.skipping;
            self.skipping |= overlong;
            if self.skipping {
                self.line.clear();
            } else {
                self.line.extend_from_slice(part);
            }
            let ended = end.is_some();
            let skipped = self.skipping;
            if ended {
                self.skipping = false;
            }
            if report {
                return Some(Err(too_long()));
            }
            if !ended {
                return None;
            }
            if !skipped && !self.line.iter().all(u8::is_ascii_whitespace) {
                let request = decode_request(&self.line);
                self.line.clear();
                return Some(request);
            }
            self.line.clear();
        }
    }
}

/// A response line, newline included. Answers hold nothing that JSON cannot; should one, it becomes an error.
#[must_use]
pub fn encode_response<T: Payload>(response: &Result<Envelope<T>, ErrorBody>) -> Vec<u8> {
    let json = match response {
        Ok(envelope) => serde_json::to_vec(envelope),
        Err(error) => return encode_error(error),
    };
    match json {
        Ok(mut line) => {
            line.push(b'\n');
            line
        }
        Err(error) => encode_error(&ErrorBody::new(
            ErrorCode::Internal,
            format!("{} cannot be written as JSON: {error}", T::SCHEMA),
        )),
    }
}

/// An error line, newline included.
#[must_use]
pub fn encode_error(error: &ErrorBody) -> Vec<u8> {
    let mut line = serde_json::to_vec(&ErrorEnvelope { error: error.clone() })
        .unwrap_or_else(|_| br#"{"error":{"code":"internal","message":"error","hint":null}}"#.to_vec());
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(decoder: &mut RequestDecoder, mut input: &[u8]) -> Vec<Result<Request, ErrorBody>> {
        let mut out = Vec::new();
        while let Some(request) = decoder.next(&mut input) {
            out.push(request);
        }
        assert!(input.is_empty());
        out
    }

    #[test]
    fn lines_cut_anywhere_decode_alike() {
        let stream = b"{\"request\":\"status\"}\n\n  \n{\"request\":\"pinhole_remove\",\"id\":7}\nnonsense\n{\"request\":\"version\"}\n";
        let whole = drain(&mut RequestDecoder::default(), stream);
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[0], Ok(Request::Status));
        assert_eq!(whole[1], Ok(Request::PinholeRemove(crate::PinholeRemove { id: 7 })));
        assert_eq!(whole[2].as_ref().unwrap_err().code, ErrorCode::BadRequest);
        for size in 1..stream.len() {
            let mut decoder = RequestDecoder::default();
            let parts: Vec<_> = stream.chunks(size).flat_map(|chunk| drain(&mut decoder, chunk)).collect();
            assert_eq!(parts, whole, "chunks of {size}");
        }
    }

    #[test]
    fn a_line_too_long_costs_one_error_and_no_memory() {
        let mut decoder = RequestDecoder::default();
        let mut answers = Vec::new();
        for _ in 0..100 {
            answers.extend(drain(&mut decoder, &[b'x'; 4096]));
            assert!(decoder.line.capacity() <= 2 * MAX_REQUEST);
        }
        answers.extend(drain(&mut decoder, b"\n{\"request\":\"status\"}\n"));
        assert_eq!(answers.len(), 2);
        assert!(answers[0].as_ref().unwrap_err().message.contains("65536"));
        assert_eq!(answers[1], Ok(Request::Status));
    }

    #[test]
    fn the_limit_is_exact() {
        let mut line = br#"{"request":"status"}"#.to_vec();
        line.resize(MAX_REQUEST - 1, b' ');
        line.push(b'\n');
        assert_eq!(drain(&mut RequestDecoder::default(), &line), [Ok(Request::Status)]);
        line.insert(0, b' ');
        assert!(drain(&mut RequestDecoder::default(), &line)[0].is_err());
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (line, named) in [
            (r#"{"request":"flows","limit":0}"#, "limit is 0"),
            (r#"{"request":"flows","limit":1001}"#, "limit is 1001"),
            (r#"{"request":"flows"}"#, "limit"),
            (r#"{"request":"flows","limit":1,"filter":{"subscribr":"::1"}}"#, "subscribr"),
            (r#"{"request":"flows","limit":1,"filter":{"state":"open"}}"#, "established"),
            (r#"{"request":"flows","limit":1,"filter":{"protocol":6}}"#, "string"),
            (r#"{"request":"walk"}"#, "walk"),
            (
                r#"{"request":"pinhole_add","protocol":"icmp","inside":{"address":"192.0.2.1","port":1}}"#,
                "icmp",
            ),
            (
                r#"{"request":"pinhole_add","protocol":"tcp","inside":{"address":"192.0.2.1","port":0}}"#,
                "port is 0",
            ),
            (
                r#"{"request":"pinhole_add","protocol":"tcp","inside":{"address":"192.0.2.1","port":1},"remote":"::/0"}"#,
                "family",
            ),
            (
                r#"{"request":"pinhole_add","protocol":"tcp","inside":{"address":"192.0.2.1","port":1},"note":"a\nb"}"#,
                "note",
            ),
            (
                r#"{"request":"pinhole_add","protocol":"tcp","inside":{"address":"192.0.2.1","port":1},"lifetime_seconds":0}"#,
                "lifetime_seconds",
            ),
        ] {
            let error = decode_request(line.as_bytes()).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest);
            assert!(error.message.contains(named), "{line}: {}", error.message);
        }
    }
}
