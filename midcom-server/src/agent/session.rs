//! The task that keeps the session.

use super::dial::{Line, dial};
use super::{Command, Lost, Notice, RequestError, Settings, Status};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use turnpike_simco::{AgentEvent, AgentSession, Ended, Extensions, Notification, Page, Reply, RuleRequest};

/// The first pause before a new attempt; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long the answer to ST is waited for.
const FAREWELL: Duration = Duration::from_secs(2);

/// Who waits for a reply.
enum Waiting {
    Command(oneshot::Sender<super::Answer>),
    Ping,
    /// PRL of a resynchronization.
    List,
    /// PRS of one.
    Status,
}

pub(super) struct Task {
    settings: Settings,
    strict: bool,
    commands: mpsc::Receiver<Command>,
    notices: mpsc::Sender<Notice>,
    /// A session was there before: the next is followed by a resynchronization.
    again: bool,
}

enum Finished {
    Closed,
    Lost(Lost),
}

impl Task {
    pub(super) fn new(
        settings: Settings,
        strict: bool,
        commands: mpsc::Receiver<Command>,
        notices: mpsc::Sender<Notice>,
    ) -> Self {
        Self { settings, strict, commands, notices, again: false }
    }

    async fn tell(&self, notice: Notice) {
        // Who does not want to hear has dropped the other end.
        let _ = self.notices.send(notice).await;
    }

    pub(super) async fn run(mut self, mut line: Option<Line>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let attempt = match line.take() {
                Some(line) => Ok(line),
                None => dial(&self.settings, &mut self.strict).await,
            };
            let lost = match attempt {
                Ok(line) => {
                    pause = FIRST_PAUSE;
                    self.tell(Notice::Open(line.established.clone())).await;
                    let again = std::mem::replace(&mut self.again, true);
                    let connected = Connected::new(line, again, &self.settings);
                    match connected.run(&mut self.commands, &self.notices).await {
                        Finished::Closed => return,
                        Finished::Lost(lost) => lost,
                    }
                }
                Err(lost) => lost,
            };
            self.tell(Notice::Lost(lost.clone())).await;
            let Some(longest) = self.settings.reconnect else {
                return self.refuse_all(&lost).await;
            };
            let wait = sleep(pause.min(longest));
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    command = self.commands.recv() => match command {
                        None => return,
                        Some(command) => {
                            let _ = command.answer.send(Err(RequestError::Lost(lost.clone())));
                        }
                    }
                }
            }
            pause = (pause * 2).min(longest);
        }
    }

    async fn refuse_all(&mut self, lost: &Lost) {
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            let _ = command.answer.send(Err(RequestError::Lost(lost.clone())));
        }
    }
}

/// A session while it is open.
struct Connected<'a> {
    line: Line,
    settings: &'a Settings,
    waiting: HashMap<u32, Waiting>,
    /// Rules whose status is still to be asked for, and those known already.
    resync: Option<Resync>,
    heard: Instant,
    pinged: bool,
}

#[derive(Default)]
struct Resync {
    listed: bool,
    left: Vec<u32>,
    under_way: usize,
    found: BTreeMap<u32, Status>,
}

impl<'a> Connected<'a> {
    fn new(line: Line, again: bool, settings: &'a Settings) -> Self {
        let resync = again.then(Resync::default);
        Self { line, settings, waiting: HashMap::new(), resync, heard: Instant::now(), pinged: false }
    }

    async fn run(
        mut self,
        commands: &mut mpsc::Receiver<Command>,
        notices: &mpsc::Sender<Notice>,
    ) -> Finished {
        let lost = match self.serve(commands, notices).await {
            None => {
                self.part().await;
                return Finished::Closed;
            }
            Some(lost) => lost,
        };
        for (_, waiting) in self.waiting.drain() {
            if let Waiting::Command(answer) = waiting {
                let _ = answer.send(Err(RequestError::Lost(lost.clone())));
            }
        }
        Finished::Lost(lost)
    }

    /// Until the session is lost; none: everybody dropped the agent.
    async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        notices: &mpsc::Sender<Notice>,
    ) -> Option<Lost> {
        if self.resync.is_some() {
            let page = self.line.session.granted().has(Extensions::PAGES).then(Page::default);
            self.send(&RuleRequest::RuleList { page }, Waiting::List);
        }
        let mut octets = vec![0; 16 * 1024];
        loop {
            self.resynchronize(notices).await;
            let output = std::mem::take(self.line.session.output());
            if !output.is_empty() {
                let stream = &mut self.line.stream;
                let write = async {
                    stream.write_all(&output).await?;
                    stream.flush().await
                };
                match timeout(self.settings.timeout, write).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Some(Lost::Broken(error.to_string())),
                    Err(_) => return Some(Lost::Silent),
                }
            }
            let room = self.waiting.len() < self.settings.pipelining;
            tokio::select! {
                read = self.line.stream.read(&mut octets) => match read {
                    Ok(0) => return Some(Lost::Broken("closed by the middlebox".to_owned())),
                    Err(error) => return Some(Lost::Broken(error.to_string())),
                    Ok(count) => {
                        self.heard = Instant::now();
                        self.pinged = false;
                        self.line.session.receive(octets.get(..count).unwrap_or_default());
                        if let Some(lost) = self.events(notices).await {
                            return Some(lost);
                        }
                    }
                },
                command = commands.recv(), if room => match command {
                    None => return None,
                    Some(Command { request, answer }) => self.send(&request, Waiting::Command(answer)),
                },
                () = sleep_until(self.heard + self.settings.ping * if self.pinged { 2 } else { 1 }) => {
                    if std::mem::replace(&mut self.pinged, true) {
                        return Some(Lost::Silent);
                    }
                    // No rule has PID 0: the shortest question there is.
                    self.send(&RuleRequest::RuleStatus { rule: 0 }, Waiting::Ping);
                }
            }
        }
    }

    fn send(&mut self, request: &RuleRequest, waiting: Waiting) {
        let refused = match self.line.session.request(request) {
            Ok(Some(tid)) => {
                self.waiting.insert(tid, waiting);
                return;
            }
            Ok(None) => RequestError::Lost(Lost::Silent),
            Err(_) => RequestError::TooBig,
        };
        if let Waiting::Command(answer) = waiting {
            let _ = answer.send(Err(refused));
        }
    }

    async fn events(&mut self, notices: &mpsc::Sender<Notice>) -> Option<Lost> {
        while let Some(event) = self.line.session.event() {
            match event {
                AgentEvent::Opened(_) => {}
                AgentEvent::Answer { tid, answer } => {
                    let answer = answer.map_err(RequestError::Refused);
                    match self.waiting.remove(&tid) {
                        Some(Waiting::Command(waiting)) => {
                            let _ = waiting.send(answer);
                        }
                        Some(Waiting::List) => self.listed(answer),
                        Some(Waiting::Status) => self.status(answer),
                        Some(Waiting::Ping) | None => {}
                    }
                }
                AgentEvent::Notification(notification) => {
                    self.forget(&notification);
                    let _ = notices.send(Notice::Notification(notification)).await;
                }
                AgentEvent::Ended(why) => return Some(Lost::Ended(why)),
            }
        }
        None
    }

    /// What ends during a resynchronization is not in its result.
    fn forget(&mut self, notification: &Notification) {
        if let (Some(resync), Notification::Rule { rule, lifetime: 0, .. }) = (&mut self.resync, notification)
        {
            resync.found.remove(rule);
        }
    }

    fn listed(&mut self, answer: super::Answer) {
        let Some(resync) = &mut self.resync else { return };
        match answer {
            Ok(Reply::Rules { rules, more }) => {
                resync.left.extend(rules);
                match more {
                    Some(page) => self.send(&RuleRequest::RuleList { page: Some(page) }, Waiting::List),
                    None => resync.listed = true,
                }
            }
            // An agent that may not read has nothing to learn.
            _ => resync.listed = true,
        }
    }

    fn status(&mut self, answer: super::Answer) {
        let Some(resync) = &mut self.resync else { return };
        resync.under_way -= 1;
        let status = match answer {
            Ok(Reply::ReserveStatus(reserved, owner)) => Status::Reserve(reserved, owner),
            Ok(Reply::EnableStatus(status)) => Status::Enable(status),
            // Gone meanwhile.
            _ => return,
        };
        resync.found.insert(status.rule(), status);
    }

    async fn resynchronize(&mut self, notices: &mpsc::Sender<Notice>) {
        while let Some(resync) = &mut self.resync {
            if resync.under_way + 1 < self.settings.pipelining.max(2)
                && let Some(rule) = resync.left.pop()
            {
                resync.under_way += 1;
                self.send(&RuleRequest::RuleStatus { rule }, Waiting::Status);
                continue;
            }
            if !resync.listed || resync.under_way > 0 || !resync.left.is_empty() {
                return;
            }
            let found = std::mem::take(&mut resync.found).into_values().collect();
            self.resync = None;
            let _ = notices.send(Notice::Resynchronized(found)).await;
        }
    }

    /// ST and its reply.
    async fn part(&mut self) {
        self.line.session.terminate();
        let output = std::mem::take(self.line.session.output());
        let farewell = async {
            self.line.stream.write_all(&output).await?;
            self.line.stream.flush().await?;
            let mut octets = [0; 4096];
            loop {
                let count = self.line.stream.read(&mut octets).await?;
                self.line.session.receive(octets.get(..count).unwrap_or_default());
                if count == 0 || over(&mut self.line.session) {
                    return self.line.stream.shutdown().await;
                }
            }
        };
        let _ = timeout(FAREWELL, farewell).await;
    }
}

fn over(session: &mut AgentSession) -> bool {
    std::iter::from_fn(|| session.event()).any(|event| matches!(event, AgentEvent::Ended(Ended::ByAgent)))
}
