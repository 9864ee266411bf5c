//! `turnpike top`: the box live, refreshed by polling the control plane.

pub mod screen;
pub mod view;

use crate::args::{Cli, TopArgs};
use crate::output::{DONE, Failure, Output};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;
use screen::Screen;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use turnpike_api::{Client, ClientError, Envelope, ErrorBody, ErrorCode, Request, StatusData};
use view::Theme;

/// How soon a key is answered.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// Runs the screen until it is left, or prints it once.
///
/// # Errors
/// If the first status does not come, or standard output is no terminal.
pub fn run(cli: &Cli, args: &TopArgs, output: &mut Output<'_>) -> Result<u8, Failure> {
    if output.json && !args.once {
        return Err(usage("--json needs --once here: a live screen is no document"));
    }
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !(args.once || terminal) {
        return Err(usage("a live screen needs a terminal; --once prints it as plain text"));
    }
    let mut poller =
        Poller { socket: cli.socket.clone(), timeout: cli.timeout, interval: args.interval, client: None };
    let first = poller.status()?;
    if args.once {
        output.answer(&first, |out, _| Screen::new(&first).write(out))?;
        return Ok(DONE);
    }
    output.flush()?;

    // Beside the keys: whoever ends this by a signal gets a sound terminal back too.
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let (sender, updates) = channel();
    let screen = Screen::new(&first);
    std::thread::spawn(move || poller.poll(&sender));
    // Restores the terminal from the panic hook as well.
    let mut terminal = ratatui::try_init()?;
    let left = watch(&mut terminal, screen, &updates, &ended);
    ratatui::restore();
    left?;
    Ok(DONE)
}

fn usage(message: &str) -> Failure {
    ErrorBody::new(ErrorCode::BadRequest, message).into()
}

type Update = Result<Envelope<StatusData>, ErrorBody>;

/// Asks for the status, again and again.
struct Poller {
    socket: PathBuf,
    timeout: Duration,
    interval: Duration,
    client: Option<Client>,
}

impl Poller {
    /// Asks once, over the connection of the last time if that went well.
    fn status(&mut self) -> Result<Envelope<StatusData>, ClientError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.socket, self.timeout)?,
        };
        let status = client.call(&Request::Status)?;
        self.client = Some(client);
        Ok(status)
    }

    /// Sends a status every interval, until nobody listens.
    fn poll(mut self, updates: &Sender<Update>) {
        loop {
            std::thread::sleep(self.interval);
            let update = self.status().map_err(|error| error.body());
            if updates.send(update).is_err() {
                return;
            }
        }
    }
}

/// Draws until a key or a signal ends it.
fn watch(
    terminal: &mut DefaultTerminal,
    mut screen: Screen,
    updates: &Receiver<Update>,
    ended: &AtomicBool,
) -> std::io::Result<()> {
    let theme = Theme::from_environment();
    let mut stale = true;
    while !ended.load(Ordering::Relaxed) {
        for update in updates.try_iter() {
            match update {
                Ok(status) => screen = Screen::new(&status),
                Err(body) => screen.fault = Some(body.message),
            }
            stale = true;
        }
        if stale {
            terminal.draw(|frame| view::render(frame, &screen, theme))?;
            stale = false;
        }
        match event::poll(KEY_WAIT) {
            Ok(true) => {}
            Ok(false) => continue,
            // A signal: the loop's condition knows which.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        match event::read()? {
            Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                _ => {}
            },
            Event::Resize(..) => stale = true,
            _ => {}
        }
    }
    Ok(())
}
