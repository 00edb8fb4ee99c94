//! How a response is read, and why so: the reading is that of `core::classify`, and each field is shown what it would say alone.

use http::header::{AGE, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::question::{Given, Question};
use super::view::{FieldPart, Problem, seconds};
use crate::config::settings::HostSettings;
use crate::core::classify::{self, Reading};
use crate::core::decision::{Reason, Source};
use crate::core::policy::{FieldRule, Hintless, SignalRules};
use crate::core::signal::body::{BodyRule, BodyRules, Cools};
use crate::core::signal::grpc::{GRPC_RETRY_PUSHBACK_MS, GRPC_STATUS};
use crate::core::signal::rate_limit::{RATE_LIMIT, RATE_LIMIT_POLICY};
use crate::core::signal::retry_after::{RETRY_AFTER_MS, X_MS_RETRY_AFTER_MS};
use crate::core::signal::{Hint, Outcome, Signal, printable};
use crate::core::time::UnixTime;

/// The most bytes shown of a field.
const MAX_VALUE: usize = 80;

/// What a response means.
#[derive(Clone, Debug)]
pub(super) struct Meaning {
    pub(super) outcome: Outcome,
    pub(super) why: String,
    pub(super) scope: Option<usize>,
    pub(super) hint: Option<Hint>,
    pub(super) fields: Vec<FieldPart>,
    pub(super) problems: Vec<Problem>,
    pub(super) clock_offset: Option<f64>,
    /// A rule about bodies that matched says what cools.
    pub(super) cools: Option<Cools>,
    pub(super) notes: Vec<String>,
}

/// Reads what is given. `body`: that of the response.
pub(super) fn read(
    question: &Question,
    given: &Given,
    of: &HostSettings,
    body: Option<&[u8]>,
    wall: UnixTime,
) -> Meaning {
    let (status, headers) = match given {
        Given::Failure(failure) => {
            return Meaning {
                outcome: Outcome::Failing(*failure),
                why: "no answer came: a failure, which is the breaker's".to_owned(),
                scope: None,
                hint: None,
                fields: Vec::new(),
                problems: Vec::new(),
                clock_offset: None,
                cools: None,
                notes: Vec::new(),
            };
        }
        Given::Response(status, headers) => (*status, headers),
    };
    let rules = &of.policy.signals;
    let reading = classify::response(rules, status, headers, wall);
    let ignored = rules.ignore_methods.contains(&question.method);
    let awaits_trailers = reading.awaits_trailers();
    let read = if ignored { reading.clone().of_ignored_method() } else { reading.clone() };
    let mut notes = Vec::new();
    if awaits_trailers {
        notes.push(
            "the status of a gRPC call comes in its trailers; give `grpc-status` as a header field to ask about it"
                .to_owned(),
        );
    }
    let mut problems: Vec<Problem> = reading
        .errors()
        .map(|(field, cause)| Problem { field: field.as_str().to_owned(), cause: cause.as_str().to_owned() })
        .collect();
    let unheard = if ignored && read.outcome != reading.outcome {
        Some("it does not count: the method is one of `signals.ignore_methods`")
    } else if !rules.trust_hints {
        Some("it does not count: hints of this host are not believed (`signals.trust_hints`)")
    } else {
        None
    };
    let mut meaning = Meaning {
        why: why(rules, status, &reading, &read, ignored),
        fields: fields(rules, (status, headers), &reading, unheard, wall),
        scope: read.scope,
        hint: read.hint_seen,
        clock_offset: read.clock_offset.map(offset),
        outcome: read.outcome,
        problems: Vec::new(),
        cools: None,
        notes,
    };
    look_at_body(question, &of.bodies, (status, headers), body, &mut meaning, &mut problems);
    meaning.problems = problems;
    meaning
}

/// What the rules about bodies say, or would look at.
fn look_at_body(
    question: &Question,
    rules: &BodyRules,
    (status, headers): (StatusCode, &HeaderMap),
    body: Option<&[u8]>,
    meaning: &mut Meaning,
    problems: &mut Vec<Problem>,
) {
    let fits = |rule: &&BodyRule| {
        let alone = BodyRules::new(vec![BodyRule::clone(rule)], rules.prefix(), rules.decoded_prefix());
        alone.watch(status, headers).is_some()
    };
    let watched: Vec<String> = rules.iter().filter(fits).map(|rule| format!("`{}`", rule.name)).collect();
    if question.method == Method::HEAD || watched.is_empty() {
        if body.is_some() {
            meaning.notes.push("no rule about bodies looks at such a response, so its body was not read".to_owned());
        }
        return;
    }
    let Some(body) = body else {
        meaning.notes.push(format!(
            "the body of such a response is watched by the {} {} (`signals.body`), which may find that the host is busy",
            if watched.len() == 1 { "rule" } else { "rules" },
            watched.join(", ")
        ));
        return;
    };
    let Some(mut watch) = rules.watch(status, headers) else { return };
    watch.see(body);
    let verdict = watch.finish();
    problems.extend(
        verdict.problems.iter().map(|problem| Problem { field: "body".to_owned(), cause: problem.as_str().to_owned() }),
    );
    let Some(matched) = verdict.matched else {
        meaning.notes.push(format!("the body was read by {} and none matches", watched.join(", ")));
        return;
    };
    let seen: Vec<String> =
        matched.seen.iter().map(|(condition, value)| format!("{condition} (it saw {value:?})")).collect();
    let rule = &matched.rule;
    let hint = Hint { wait: rule.cooldown, source: Source::BodyRule };
    meaning.why = format!("the rule `{}` about bodies matches: {}", rule.name, seen.join(", "));
    meaning.hint = Some(hint);
    meaning.cools = Some(rule.cools.clone());
    let received = Some(format!("body: {}", rule.name).into());
    meaning.outcome = Outcome::OffLadder(Signal { reason: Reason::BackendBusy, hint: Some(hint), received });
}

/// Why a status and its fields mean what they mean.
fn why(rules: &SignalRules, status: StatusCode, reading: &Reading, read: &Reading, ignored: bool) -> String {
    let code = status.as_u16();
    if ignored && read.outcome != reading.outcome {
        return "the method is one of `signals.ignore_methods`: what is said of its requests is about them alone"
            .to_owned();
    }
    let grpc = reading.grpc_code().map(|code| (code.number(), code.counts_as()));
    let (status, name) = match grpc {
        Some((number, counts_as)) => {
            (counts_as, format!("gRPC status {number}, which counts as {},", counts_as.as_u16()))
        }
        None => (status, code.to_string()),
    };
    let untrusted = reading.hint_seen.is_some() && !rules.trust_hints;
    let believed = if untrusted { "; hints of this host are not believed (`signals.trust_hints`)" } else { "" };
    match &read.outcome {
        Outcome::Exhausted(_) => {
            format!("{name} is a good answer, and says that nothing is left until the reset (`signals.proactive`)")
        }
        Outcome::Signal(_) | Outcome::OffLadder(_) if rules.statuses.contains(&status) => {
            format!("{name} is one of `signals.statuses`{believed}")
        }
        Outcome::Signal(_) | Outcome::OffLadder(_) if rules.unavailable.contains(&status) => {
            format!("{name} is one of `signals.unavailable`, and it names a wait{believed}")
        }
        Outcome::Signal(_) | Outcome::OffLadder(_) => {
            format!("{name} is one of `signals.limited_with_hint`, and it names a wait{believed}")
        }
        Outcome::Neutral if rules.statuses.contains(&status) && rules.hintless == Hintless::Ignore => {
            format!("{name} names no wait, and `signals.hintless = \"ignore\"` takes that as about the one request")
        }
        Outcome::Failing(_) if rules.unavailable.contains(&status) => {
            format!(
                "{name} is one of `signals.unavailable`, but it names no wait, so it is a failure, which is the breaker's"
            )
        }
        Outcome::Failing(_) => format!("{name} says that the host is not well: a failure, which is the breaker's"),
        Outcome::Answered => format!("{name} is an error of the host's, who is there: it neither limits nor fails"),
        _ if rules.limited_with_hint.contains(&status) => {
            format!(
                "{name} is one of `signals.limited_with_hint`, but it names no wait, so it is an answer like others"
            )
        }
        _ if status.is_client_error() => format!("{name} is about the request, not about waiting: the host answered"),
        _ => format!("{name} is a good answer"),
    }
}

fn offset(millis: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people; a clock that is off by more is beyond help")]
    let millis = millis as f64;
    millis / 1000.0
}

/// A field about waiting, with what else it needs to be read.
struct Candidate {
    name: HeaderName,
    with: Vec<HeaderName>,
    rule: Option<FieldRule>,
    family: &'static str,
}

/// Each field about waiting that is there: what it would say alone, and whether it counts. `unheard`: why none does.
fn fields(
    rules: &SignalRules,
    (status, headers): (StatusCode, &HeaderMap),
    reading: &Reading,
    unheard: Option<&str>,
    wall: UnixTime,
) -> Vec<FieldPart> {
    let plain = |name, with, family| Candidate { name, with, rule: None, family };
    let mut candidates = vec![
        plain(RETRY_AFTER, vec![], "Retry-After"),
        plain(RETRY_AFTER_MS, vec![], "Retry-After"),
        plain(X_MS_RETRY_AFTER_MS, vec![], "Retry-After"),
        plain(GRPC_RETRY_PUSHBACK_MS, vec![], "vendor"),
    ];
    candidates.extend(rules.fields.iter().map(|rule| Candidate {
        name: rule.reset.clone(),
        with: rule.remaining.iter().cloned().collect(),
        rule: Some(rule.clone()),
        family: "vendor",
    }));
    candidates.push(plain(RATE_LIMIT, vec![RATE_LIMIT_POLICY], "RateLimit"));
    let there = candidates.into_iter().filter(|candidate| headers.contains_key(&candidate.name));
    let read: Vec<(Candidate, Reading)> = there
        .map(|candidate| {
            let alone = alone(rules, status, headers, &candidate, wall);
            (candidate, alone)
        })
        .collect();
    let counted = reading.hint_seen;
    let winner = read.iter().position(|(_, alone)| alone.hint_seen.is_some() && alone.hint_seen == counted);
    let winner_name =
        winner.and_then(|at| read.get(at)).map(|(candidate, _)| (candidate.name.clone(), candidate.family));
    read.iter()
        .enumerate()
        .map(|(at, (candidate, alone))| {
            let wins = winner == Some(at);
            let decides = wins && unheard.is_none();
            let because = if wins {
                unheard.unwrap_or("it counts").to_owned()
            } else {
                lost(rules, candidate, alone, headers, winner_name.as_ref(), &reading.outcome)
            };
            FieldPart {
                name: shown_name(&candidate.name),
                value: value(headers, &candidate.name),
                wait_seconds: alone.hint_seen.map(|hint| seconds(hint.wait)),
                decides,
                because,
            }
        })
        .collect()
}

/// What a response would mean whose only field about waiting is this one.
fn alone(
    rules: &SignalRules,
    status: StatusCode,
    headers: &HeaderMap,
    candidate: &Candidate,
    wall: UnixTime,
) -> Reading {
    let mut only = HeaderMap::new();
    let kept = [DATE, AGE, CONTENT_TYPE, GRPC_STATUS, candidate.name.clone()];
    for name in kept.iter().chain(&candidate.with) {
        for value in headers.get_all(name) {
            only.append(name.clone(), value.clone());
        }
    }
    let rules = SignalRules { fields: candidate.rule.iter().cloned().collect(), ..rules.clone() };
    classify::response(&rules, status, &only, wall)
}

/// Why a field is not the one that counts.
fn lost(
    rules: &SignalRules,
    candidate: &Candidate,
    alone: &Reading,
    headers: &HeaderMap,
    winner: Option<&(HeaderName, &'static str)>,
    outcome: &Outcome,
) -> String {
    if let (Some(hint), Some((name, family))) = (alone.hint_seen, winner) {
        let name = shown_name(name);
        return if *family == candidate.family {
            match rules.fields.len() {
                _ if hint.wait.is_zero() => format!("it is over by now; `{name}` counts"),
                _ => format!("of fields of one kind the longest counts, which is `{name}`"),
            }
        } else {
            format!("`{name}` goes before it")
        };
    }
    if let Some((_, cause)) = alone.errors().next() {
        return format!("it cannot be read: {}", cause.as_str().replace('_', " "));
    }
    let remaining = candidate.rule.as_ref().and_then(|rule| rule.remaining.as_ref());
    if let Some(name) = remaining {
        return match headers.get(name) {
            Some(_) => format!("`{}: {}`: its window is not used up", shown_name(name), value(headers, name)),
            None => format!("`{}`, which says whether its window is used up, is not there", shown_name(name)),
        };
    }
    match outcome {
        Outcome::Signal(_) | Outcome::OffLadder(_) => "it names no wait: nothing is used up".to_owned(),
        Outcome::Exhausted(_) => "on a good answer it does not count".to_owned(),
        _ => "it is not read: the status is no signal".to_owned(),
    }
}

fn shown_name(name: &HeaderName) -> String {
    match name {
        name if *name == RETRY_AFTER => "Retry-After".to_owned(),
        name if *name == RATE_LIMIT => "RateLimit".to_owned(),
        name if *name == RATE_LIMIT_POLICY => "RateLimit-Policy".to_owned(),
        name => name.as_str().to_owned(),
    }
}

fn value(headers: &HeaderMap, name: &HeaderName) -> String {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| printable(value.as_bytes(), MAX_VALUE)).collect();
    let mut text = values.join(", ");
    text.truncate(MAX_VALUE);
    text
}
