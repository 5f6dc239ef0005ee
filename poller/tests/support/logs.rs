//! What an event loop says in the log, for tests that hold it to that.
//!
//! A process has one logger and many tests, so lines are kept by the name of the thread that said them: an event loop
//! with a name of its own has lines of its own.

use std::sync::{Mutex, Once};

use log::kv::{Key, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// One line at WARN or ERROR.
#[derive(Clone, Debug)]
pub struct Line {
    pub thread: String,
    pub level: Level,
    pub text: String,
    /// The key-values, in their order.
    pub pairs: Vec<(String, String)>,
}

impl Line {
    pub fn value(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

struct Keeper(Mutex<Vec<Line>>);

static KEEPER: Keeper = Keeper(Mutex::new(Vec::new()));

struct Pairs<'a>(&'a mut Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

impl Log for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut pairs = Vec::new();
        record.key_values().visit(&mut Pairs(&mut pairs)).expect("pairs are kept");
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let line = Line { thread, level: record.level(), text: record.args().to_string(), pairs };
        self.0.lock().expect("no panic").push(line);
    }

    fn flush(&self) {}
}

/// Begins to keep lines, and keeps panics that are made on purpose off the screen.
pub fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&KEEPER).expect("the first logger");
        log::set_max_level(LevelFilter::Warn);
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&'static str>().copied();
            let text =
                text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
            if !text.starts_with("on purpose") {
                others(info);
            }
        }));
    });
}

/// What the threads of the event loop `name` have said at `level`.
pub fn lines(name: &str, level: Level) -> Vec<Line> {
    let all = KEEPER.0.lock().expect("no panic");
    let of = |line: &&Line| line.level == level && line.thread.rsplit_once('-').is_some_and(|t| t.0 == name);
    all.iter().filter(of).cloned().collect()
}
