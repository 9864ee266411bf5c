//! The live screen on a pseudo-terminal, made by script(1) of the base system.

use crate::support::Server;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const ENTER: &str = "\u{1b}[?1049h";
const SHOW_CURSOR: &str = "\u{1b}[?25h";
const LEAVE: &str = "\u{1b}[?1049l";

/// `turnpike top` on a terminal of 80 by 24.
struct Live {
    child: Child,
    keys: Option<ChildStdin>,
    chunks: Receiver<Vec<u8>>,
    shown: String,
    pid: String,
}

impl Live {
    fn start(server: &Server) -> Self {
        let program = env!("CARGO_BIN_EXE_turnpike");
        let socket = server.socket();
        let line = format!(
            "stty rows 24 cols 80; echo pid=$$.; exec '{program}' --socket '{}' top --interval 0.05",
            socket.display()
        );
        let mut child = Command::new("script")
            .args(["-q", "-e", "-f", "-c", &line, "/dev/null"])
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let keys = child.stdin.take();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, chunks, shown: String::new(), pid: String::new() }
    }

    /// Waits until `text` has been written to the terminal, behind what was waited for before. A word at most:
    /// blanks, and cells that stay as they are, are skipped by moving the cursor.
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        let end = loop {
            if let Some(at) = self.shown.find(text) {
                break at + text.len();
            }
            match self.chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(chunk) => self.shown += &String::from_utf8_lossy(&chunk),
                Err(error) => panic!("{error}: {text:?} not in {:.4000?}", self.shown),
            }
        };
        self.shown.drain(..end);
    }

    /// Waits for the first whole screen.
    fn wait_for_screen(&mut self) {
        self.wait_for("pid=");
        self.pid = loop {
            if let Some((pid, _)) = self.shown.split_once('.') {
                break pid.to_owned();
            }
            self.shown += &String::from_utf8_lossy(&self.chunks.recv_timeout(PATIENCE).unwrap());
        };
        self.wait_for(ENTER);
        for word in ["WORKERS", "quits"] {
            self.wait_for(word);
        }
    }

    fn press(&mut self, key: &[u8]) {
        self.keys.as_mut().unwrap().write_all(key).unwrap();
    }

    /// Signals the CLI by its process id.
    fn signal(&mut self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid]).status().unwrap().success());
    }

    /// Waits for the end: the exit code is 0 and the terminal as it was.
    fn ends_well(mut self) {
        self.wait_for(LEAVE);
        self.wait_for(SHOW_CURSOR);
        drop(self.keys.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {:?}", self.shown);
    }
}

#[test]
fn keys_and_signals_end_it_and_give_the_terminal_back() {
    let server = Server::of_examples();
    let ends: [fn(&mut Live); 5] = [
        |live| live.press(b"q"),
        |live| live.press(b"\x1b"),
        |live| live.press(b"\x03"),
        |live| live.signal("-TERM"),
        |live| live.signal("-INT"),
    ];
    for end in ends {
        let mut live = Live::start(&server);
        live.wait_for_screen();
        end(&mut live);
        live.ends_well();
    }
}

#[test]
fn it_refreshes_outlives_its_daemon_and_comes_back() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use turnpike_api::{ErrorBody, ErrorCode, StatusData};
    const BROKEN: u64 = u64::MAX;
    let flows = Arc::new(AtomicU64::new(111));
    let current = Arc::clone(&flows);
    let server = Server::new(move |_| {
        let mut envelope = crate::support::example::<StatusData>("status");
        envelope.data.flows.in_use = current.load(Ordering::Relaxed);
        Some(match envelope.data.flows.in_use {
            BROKEN => crate::support::refuse(&ErrorBody::new(ErrorCode::Internal, "out of order")),
            _ => crate::support::line(&envelope),
        })
    });
    let mut live = Live::start(&server);
    live.wait_for("111");
    flows.store(987, Ordering::Relaxed);
    live.wait_for("987");
    flows.store(BROKEN, Ordering::Relaxed);
    live.wait_for("order");
    flows.store(654, Ordering::Relaxed);
    live.wait_for("654");
    live.press(b"q");
    live.ends_well();
}
