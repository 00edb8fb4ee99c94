//! The keys of one request: which they are, and what each of them learns from the answer (SPEC 4.2, 4.3).
//!
//! Most requests have one, that of their host, found with one look-up. Where the policy divides a host there are more: the
//! *base*, which is the host, the paths of its table or its group, and below it the levels, from wide to narrow. A signal
//! is for one of them; the others must neither cool for it nor be held back by it. Failures are for the base, where the
//! breaker stands. A success counts for all.
//!
//! A host names some limits in its answers only: of several routes that share one (a *bucket*) it says so when they are
//! asked, and a rule about bodies may cool a group that the request is not of. Such a key was not asked for a permit. The
//! pass that is taken instead says when the request was sent, so that the key can tell what is old.

use std::sync::Arc;

use http::HeaderMap;

use super::shared::{Host, Shared};
use crate::config::settings::HostSettings;
use crate::core::key::Key;
use crate::core::level::{Asked, Level, Scope};
use crate::core::signal::Outcome;
use crate::core::time::Instant;
use crate::table::{Entry, FreePass, Permit, Report, clock};

/// The name of the base among levels.
const HOST: &str = "host";

/// The longest name of a bucket that is looked at, in bytes.
const MAX_BUCKET: usize = 128;

/// A key of a request.
pub(super) struct Place {
    pub(super) entry: Arc<Entry<Host>>,
    /// `None`: the base.
    pub(super) level: Option<usize>,
    /// Of a level with buckets.
    pub(super) scope: Option<Scope>,
}

/// The keys of a request before they are asked, the base first.
pub(super) fn places(
    shared: &Shared,
    host: &Arc<Entry<Host>>,
    settings: &HostSettings,
    asked: Option<&Asked<'_>>,
    now: Instant,
) -> Vec<Place> {
    let table = &shared.table;
    let base = match settings.base(host.key()) {
        Some(key) => table.entry(&key.as_ref(), now),
        None => Arc::clone(host),
    };
    let whole = base.key().clone();
    let mut places = vec![Place { entry: base, level: None, scope: None }];
    let Some(asked) = asked else { return places };
    for (at, level) in settings.levels.iter().enumerate() {
        let Some(scope) = level.scope(asked, &|value| shared.secret.hash(value)) else { continue };
        let entry = table.entry(&narrowed(shared, &whole, &scope.text).as_ref(), now);
        let bucket = entry.attached().bucket.load_full();
        let scope = level.bucket.is_some().then_some(scope);
        places.push(Place { entry, level: Some(at), scope });
        if let Some(bucket) = bucket {
            let entry = table.entry(&Key::as_ref(&bucket), now);
            places.push(Place { entry, level: Some(at), scope: None });
        }
    }
    places
}

/// The key of a scope of `whole`, which may have one already.
fn narrowed(shared: &Shared, whole: &Key, scope: &str) -> Key {
    whole.narrowed(scope, &|value| shared.secret.hash(value))
}

/// The permits of a request that was let through.
#[derive(Default)]
pub(super) struct Keys {
    /// The base's. `None`: nothing is fed.
    permit: Option<Permit<Host>>,
    /// From before the request was sent; for keys that turn up in its answer. `None`: nothing is fed.
    pass: Option<FreePass>,
    /// `None`: there is no key but the host's.
    divided: Option<Box<Divided>>,
}

/// What there is where a policy divides a host.
struct Divided {
    settings: Arc<HostSettings>,
    base: Arc<Entry<Host>>,
    levels: Vec<Held>,
}

/// A level, or a bucket behind its level.
struct Held {
    place: Place,
    permit: Option<Permit<Host>>,
}

/// What became of a request.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) outcome: &'a Outcome,
    pub(super) status: Option<u16>,
    /// One line for people about a signal or failure.
    pub(super) line: Option<&'a str>,
    /// Which key it is for, where it is a signal.
    pub(super) about: About,
    pub(super) now: Instant,
}

/// The key of a request that a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The narrowest.
    Narrowest,
    /// The one that this of the policy's `signals.scope` names.
    Named(usize),
    /// The base.
    Base,
}

impl About {
    /// By which of the policy's `signals.scope` an answer fits.
    pub(super) fn of_scope(scope: Option<usize>) -> Self {
        scope.map_or(Self::Narrowest, Self::Named)
    }
}

/// An error line of a key, to which the first bytes of a body may be added.
pub(super) type Line = (Arc<Entry<Host>>, u64);

impl Keys {
    /// Of a request that has no key but its host's.
    pub(super) fn of_host(permit: Option<Permit<Host>>, pass: FreePass) -> Self {
        let pass = permit.is_some().then_some(pass);
        Self { permit, pass, divided: None }
    }

    /// Of a request to a divided host, whose places let it pass.
    pub(super) fn of_places(
        settings: &Arc<HostSettings>,
        mut taken: impl Iterator<Item = (Place, Option<Permit<Host>>)>,
        pass: FreePass,
    ) -> Self {
        let Some((base, permit)) = taken.next() else { return Self::default() };
        let levels = taken.map(|(place, permit)| Held { place, permit }).collect();
        let pass = permit.is_some().then_some(pass);
        let divided = Divided { settings: Arc::clone(settings), base: base.entry, levels };
        Self { permit, pass, divided: Some(Box::new(divided)) }
    }

    /// Whether the outcome counts.
    pub(super) const fn feeds(&self) -> bool {
        self.permit.is_some()
    }

    /// Gives every permit back; what becomes of the request counts nowhere.
    pub(super) fn cancel(&mut self) {
        self.permit = None;
        self.pass = None;
        if let Some(divided) = &mut self.divided {
            divided.levels.clear();
        }
    }

    /// The settings of the request, `host` being the entry of its host.
    pub(super) fn settings<'s>(&'s self, host: &'s Entry<Host>) -> &'s Arc<HostSettings> {
        self.divided.as_ref().map_or(&host.attached().settings, |divided| &divided.settings)
    }

    /// The settings of the request, where they may not be those of its host. Those of the host are only borrowed: nearly all
    /// hosts share them, and every thread would count their owners.
    pub(super) fn divided_settings(&self) -> Option<Arc<HostSettings>> {
        self.divided.as_ref().map(|divided| Arc::clone(&divided.settings))
    }

    /// Notes what limits the answer names, for the requests to come.
    pub(super) fn learn(&mut self, shared: &Shared, headers: &HeaderMap, now: Instant) {
        if let Some(divided) = &mut self.divided
            && self.permit.is_some()
        {
            divided.learn(shared, headers, now);
        }
    }

    /// Tells every key what became of the request. Gives the line of the one that it is about, if there is one.
    pub(super) fn tell(&mut self, shared: &Shared, told: &Told<'_>) -> Option<Line> {
        let line = self.tell_early(shared, told);
        // What was told is not undone by giving the permits back.
        self.cancel();
        line
    }

    /// [`Keys::tell`] while the end is still open: what is told later counts as well; see [`Permit::report_early`].
    pub(super) fn tell_early(&mut self, shared: &Shared, told: &Told<'_>) -> Option<Line> {
        let permit = self.permit.as_mut()?;
        let report = told.report();
        let is_shown = told.line.is_some();
        let Some(divided) = self.divided.as_deref_mut() else {
            let number = permit.report_early(&report);
            return line(is_shown.then(|| Arc::clone(permit.entry())), number);
        };
        let target = divided.target(told);
        let mut found = None;
        if target == 0 {
            let number = permit.report_early(&report);
            found = line(is_shown.then(|| Arc::clone(permit.entry())), number);
        } else {
            permit.report_early(&beside(&report, true));
        }
        for (at, Held { place, permit }) in (1..).zip(&mut divided.levels) {
            if at != target {
                if let Some(permit) = permit {
                    permit.report_early(&beside(&report, at < target));
                }
                continue;
            }
            let number = match (permit, &self.pass) {
                (Some(permit), _) => permit.report_early(&report),
                (None, Some(pass)) => shared.table.complete_free(&place.entry.key().as_ref(), pass.again(), &report),
                (None, None) => 0,
            };
            found = line(is_shown.then(|| Arc::clone(&place.entry)), number);
        }
        found
    }

    /// Tells a group that the request is not of.
    pub(super) fn tell_group(&self, shared: &Shared, group: &Key, told: &Told<'_>) -> Option<Line> {
        let pass = self.pass.as_ref()?;
        let number = shared.table.complete_free(&group.as_ref(), pass.again(), &told.report());
        line(shared.table.find(group), number)
    }

    /// Whether the request is of a group.
    pub(super) fn is_of(&self, group: &Key) -> bool {
        self.divided.as_ref().is_some_and(|divided| divided.base.key() == group)
    }
}

impl<'a> Told<'a> {
    fn report(&self) -> Report<'a> {
        Report { outcome: self.outcome, status: self.status, error: self.line, now: self.now, draw: clock::draw() }
    }
}

fn line(entry: Option<Arc<Entry<Host>>>, number: u64) -> Option<Line> {
    entry.filter(|_| number != 0).map(|entry| (entry, number))
}

impl Divided {
    fn level(&self, held: &Held) -> Option<&Level> {
        self.settings.levels.get(held.place.level?)
    }

    /// The place of the key that an outcome is for, the base being 0.
    fn target(&self, told: &Told<'_>) -> usize {
        if !matches!(told.outcome, Outcome::Signal(_) | Outcome::OffLadder(_) | Outcome::Exhausted(_)) {
            return 0;
        }
        let narrowest = self.levels.len();
        let scopes = &self.settings.policy.signals.scopes;
        let named = match told.about {
            About::Base => return 0,
            About::Narrowest => None,
            About::Named(at) => scopes.get(at),
        };
        match named.map(|rule| &*rule.level) {
            None => narrowest,
            Some(HOST) => 0,
            Some(name) => {
                // A bucket stands behind the level it is of.
                let found = self.levels.iter().rposition(|held| self.level(held).is_some_and(|l| *l.name == *name));
                found.map_or(narrowest, |at| at.saturating_add(1))
            }
        }
    }

    fn learn(&mut self, shared: &Shared, headers: &HeaderMap, now: Instant) {
        let named = |held: &Held| {
            let field = self.level(held)?.bucket.as_ref()?;
            let name = headers.get(field).filter(|name| (1..=MAX_BUCKET).contains(&name.len()))?;
            let text = held.place.scope.as_ref()?.bucket(name.as_bytes(), &|value| shared.secret.hash(value));
            Some(narrowed(shared, self.base.key(), &text))
        };
        let named: Vec<Option<Key>> = self.levels.iter().map(named).collect();
        if named.iter().all(Option::is_none) {
            return;
        }
        let is_held = |key: &&Key| self.levels.iter().any(|held| held.place.entry.key() == *key);
        // Whether the request was asked about it counts, not whether it was known: an answer of a moment ago may have named it.
        let added: Vec<Option<Held>> = (self.levels.iter().zip(&named))
            .map(|(held, key)| {
                let (key, bucket) = (key.as_ref()?, &held.place.entry.attached().bucket);
                if bucket.load().as_deref() != Some(key) {
                    bucket.store(Some(Arc::new(key.clone())));
                }
                let key = Some(key).filter(|key| !is_held(key))?;
                let entry = shared.table.entry(&key.as_ref(), now);
                Some(Held { place: Place { entry, level: held.place.level, scope: None }, permit: None })
            })
            .collect();
        let mut levels = Vec::with_capacity(self.levels.len().saturating_add(1));
        let mut learned = None;
        for ((held, key), added) in std::mem::take(&mut self.levels).into_iter().zip(named).zip(added) {
            let level = held.place.level;
            // The bucket of before, behind its level.
            let is_old = |(of, key): &(Option<usize>, Key)| *of == level && held.place.entry.key() != key;
            if held.place.scope.is_none() && learned.as_ref().is_some_and(is_old) {
                continue;
            }
            learned = key.map(|key| (level, key)).or(learned);
            levels.push(held);
            levels.extend(added);
        }
        self.levels = levels;
    }
}

/// What is told to a key that the outcome is not for. `wider`: wider than the one it is for.
fn beside<'a>(report: &Report<'a>, wider: bool) -> Report<'a> {
    let outcome = match report.outcome {
        // The host answered, and named a narrower limit.
        Outcome::Signal(_) | Outcome::OffLadder(_) if wider => &Outcome::Answered,
        Outcome::Signal(_) | Outcome::OffLadder(_) | Outcome::Failing(_) => &Outcome::Neutral,
        Outcome::Exhausted(_) => &Outcome::Success,
        outcome => outcome,
    };
    Report { outcome, error: None, ..*report }
}
