//! How a distributor gathers its questions (ATC'00 5.4): only while the previous batch is
//! unanswered. Under light load each question leaves at once and alone, so gathering adds no
//! latency; under heavy load batches grow by themselves until the dispatcher keeps up.
//!
//! One batcher stands between a distributor and the dispatchers: a batch that one of them does not answer may be put to
//! another, and any answer to it counts. It owns what waits, knows neither
//! connection nor clock, and gives back every token exactly once: with a verdict, or as failed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::message::{Answer, Ask, QUESTIONS_MAX, Question, Verdict};

/// The bounds of a [`Batcher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most questions that may be undecided at once, asked or waiting to be asked.
    pub undecided_max: usize,
    /// A batch that is unanswered for this long, by whomever it was asked, has failed, and so has everything behind it.
    pub answer_timeout: Duration,
}

/// Why an answer, or a question, was not taken. The batcher is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// As many questions are undecided as may be: decide this one without the dispatcher.
    #[error("{undecided} questions are undecided: the dispatcher does not keep up")]
    Full {
        /// How many.
        undecided: usize,
    },
    /// The answer to a batch that is not, or no longer, asked: it came after its timeout. Ignore it.
    #[error("an answer to batch {batch}, which is not under way")]
    Stale {
        /// The answered batch.
        batch: u32,
    },
    /// As many verdicts as questions were due: the dispatcher is broken. Drain the batcher.
    #[error("batch {batch} asked {asked} questions and got {answered} answers")]
    Length {
        /// The answered batch.
        batch: u32,
        /// Its questions.
        asked: usize,
        /// Its answers.
        answered: usize,
    },
}

/// Gathers questions. `T` is the caller's token for a question: what to do with its verdict.
#[derive(Debug)]
pub struct Batcher<T> {
    limits: BatchLimits,
    next_batch: u32,
    asked: Option<BatchInFlight<T>>,
    waiting: VecDeque<(Question, T)>,
}

/// The batch that is under way.
#[derive(Debug)]
struct BatchInFlight<T> {
    batch: u32,
    questions: Vec<Question>,
    tokens: Vec<T>,
    /// When it was last put to somebody.
    asked_at: Instant,
    fails_at: Instant,
}

/// Tokens with their verdicts, and the next batch to send, if any question waits.
pub type Answered<T> = (Vec<(T, Verdict)>, Option<Ask>);

impl<T> Batcher<T> {
    /// A batcher with nothing under way.
    pub fn new(limits: BatchLimits) -> Batcher<T> {
        Batcher { limits, next_batch: 0, asked: None, waiting: VecDeque::new() }
    }

    /// Takes a question. Returns the batch to send now, or `None` if the question waits.
    ///
    /// # Errors
    /// [`BatchError::Full`], with the token.
    pub fn ask(
        &mut self,
        question: Question,
        token: T,
        now: Instant,
    ) -> Result<Option<Ask>, (T, BatchError)> {
        let undecided = self.undecided();
        if undecided >= self.limits.undecided_max {
            return Err((token, BatchError::Full { undecided }));
        }
        self.waiting.push_back((question, token));
        let asked = if self.asked.is_none() { self.next(now) } else { None };
        self.check_invariants();
        Ok(asked)
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// [`BatchError::Stale`] and [`BatchError::Length`]; nothing has changed then.
    pub fn answered(&mut self, answer: Answer, now: Instant) -> Result<Answered<T>, BatchError> {
        let batch = answer.batch;
        let asked = self.asked.take_if(|asked| asked.batch == batch).ok_or(BatchError::Stale { batch })?;
        if asked.tokens.len() != answer.answers.len() {
            let error =
                BatchError::Length { batch, asked: asked.tokens.len(), answered: answer.answers.len() };
            self.asked = Some(asked);
            return Err(error);
        }
        let verdicts = asked.tokens.into_iter().zip(answer.answers).collect();
        let next = self.next(now);
        self.check_invariants();
        Ok((verdicts, next))
    }

    /// Gives back the tokens of all questions if the batch under way has failed by now, in the order
    /// of asking; else none. Those that waited fail with it, because they would wait as long again.
    /// The next question is asked at once: it finds out whether the dispatcher is back.
    pub fn expire(&mut self, now: Instant) -> Vec<T> {
        if self.deadline().is_some_and(|fails_at| fails_at <= now) { self.drain() } else { Vec::new() }
    }

    /// The batch under way once more, for somebody else to answer. It fails when it would have failed.
    pub fn again(&mut self, now: Instant) -> Option<Ask> {
        let asked = self.asked.as_mut()?;
        asked.asked_at = now;
        Some(Ask { batch: asked.batch, questions: asked.questions.clone() })
    }

    /// When the batch under way was last put to somebody.
    pub fn asked_at(&self) -> Option<Instant> {
        self.asked.as_ref().map(|asked| asked.asked_at)
    }

    /// When the batch under way fails: when to call [`Batcher::expire`].
    pub fn deadline(&self) -> Option<Instant> {
        self.asked.as_ref().map(|asked| asked.fails_at)
    }

    /// Gives back the tokens of all questions, in the order of asking: the dispatcher is gone.
    pub fn drain(&mut self) -> Vec<T> {
        let asked = self.asked.take().map(|asked| asked.tokens).unwrap_or_default();
        asked.into_iter().chain(self.waiting.drain(..).map(|(_, token)| token)).collect()
    }

    /// How many questions are undecided.
    pub fn undecided(&self) -> usize {
        self.waiting.len() + self.asked.as_ref().map_or(0, |asked| asked.tokens.len())
    }

    /// Panics in debug and test builds when what must always hold does not.
    fn check_invariants(&self) {
        debug_assert!(self.undecided() <= self.limits.undecided_max, "more questions than there is room for");
        debug_assert!(self.asked.is_some() || self.waiting.is_empty(), "questions wait, and nobody is asked");
        let asked = self.asked.as_ref().map_or(1, |asked| asked.tokens.len());
        debug_assert!((1..=QUESTIONS_MAX).contains(&asked), "a batch of {asked} questions");
    }

    /// Makes the next batch of what waits.
    fn next(&mut self, now: Instant) -> Option<Ask> {
        let count = self.waiting.len().min(QUESTIONS_MAX);
        if count == 0 {
            return None;
        }
        let batch = self.next_batch;
        self.next_batch = batch.wrapping_add(1);
        let (questions, tokens): (Vec<Question>, _) = self.waiting.drain(..count).unzip();
        let fails_at = now + self.limits.answer_timeout;
        self.asked =
            Some(BatchInFlight { batch, questions: questions.clone(), tokens, asked_at: now, fails_at });
        Some(Ask { batch, questions })
    }
}

#[cfg(test)]
mod tests {
    use baton_cluster::{NodeId, PoolHash, Target};
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);

    fn batcher(undecided_max: usize) -> Batcher<u64> {
        Batcher::new(BatchLimits { undecided_max, answer_timeout: TIMEOUT })
    }

    fn question(number: u64) -> Question {
        Question { pool: PoolHash(0), target: Some(Target(number)), at: None }
    }

    /// The dispatcher of these tests: the server's number tells which question was answered.
    fn reply(ask: &Ask) -> Answer {
        let answers = ask.questions.iter().map(|question| Verdict { server: server(question), keep: None });
        Answer { batch: ask.batch, answers: answers.collect() }
    }

    fn server(question: &Question) -> Option<NodeId> {
        question.target.map(|target| NodeId((target.0 % 200) as u16))
    }

    #[test]
    fn light_load_asks_one_by_one_and_at_once() {
        let (mut batcher, now) = (batcher(100), Instant::now());
        for number in 0..10 {
            let ask =
                batcher.ask(question(number), number, now).expect("room").expect("nothing is under way");
            assert_eq!((ask.batch, ask.questions.as_slice()), (number as u32, &[question(number)][..]));
            let (verdicts, next) = batcher.answered(reply(&ask), now).expect("the answer due");
            assert_eq!(verdicts.len(), 1);
            assert_eq!(next, None);
        }
    }

    #[test]
    fn gathers_only_while_unanswered() {
        let (mut batcher, now) = (batcher(100), Instant::now());
        let first = batcher.ask(question(0), 0, now).expect("room").expect("sent at once");
        for number in 1..=5 {
            assert_eq!(batcher.ask(question(number), number, now), Ok(None));
        }
        let (verdicts, next) = batcher.answered(reply(&first), now).expect("the answer due");
        assert_eq!(verdicts.into_iter().map(|(token, _)| token).collect::<Vec<_>>(), [0]);
        assert_eq!(next.expect("five wait").questions, (1..=5).map(question).collect::<Vec<_>>());
        assert_eq!(batcher.undecided(), 5);
    }

    #[test]
    fn a_batch_has_a_largest_size_and_the_rest_follows() {
        let (mut batcher, now) = (batcher(10_000), Instant::now());
        let mut ask = batcher.ask(question(0), 0, now).expect("room").expect("sent at once");
        let all = 2 * QUESTIONS_MAX as u64 + 7;
        for number in 1..=all {
            assert_eq!(batcher.ask(question(number), number, now), Ok(None));
        }
        let mut sizes = Vec::new();
        while let (_, Some(next)) = batcher.answered(reply(&ask), now).expect("the answer due") {
            sizes.push(next.questions.len());
            ask = next;
        }
        assert_eq!(sizes, [QUESTIONS_MAX, QUESTIONS_MAX, 7]);
    }

    #[test]
    fn a_late_answer_is_stale_and_the_next_question_probes() {
        let (mut batcher, now) = (batcher(100), Instant::now());
        let late = batcher.ask(question(0), 0, now).expect("room").expect("sent at once");
        assert_eq!(batcher.ask(question(1), 1, now), Ok(None));
        assert!(batcher.expire(now + TIMEOUT - Duration::from_nanos(1)).is_empty());
        assert_eq!(batcher.expire(now + TIMEOUT), [0, 1]);
        assert_eq!(batcher.deadline(), None);
        let probe = batcher.ask(question(2), 2, now + TIMEOUT).expect("room").expect("sent at once");
        assert_eq!(batcher.answered(reply(&late), now), Err(BatchError::Stale { batch: late.batch }));
        assert_eq!(batcher.answered(reply(&probe), now).expect("the answer due").0.len(), 1);
    }

    #[test]
    fn a_batch_may_be_put_to_another_and_the_first_answer_counts() {
        let (mut batcher, now) = (batcher(100), Instant::now());
        assert_eq!(batcher.again(now), None);
        let first = batcher.ask(question(0), 0, now).expect("room").expect("sent at once");
        assert_eq!(batcher.ask(question(1), 1, now), Ok(None));
        let later = now + TIMEOUT / 2;
        assert_eq!(batcher.again(later), Some(first.clone()), "the same questions under the same number");
        assert_eq!((batcher.asked_at(), batcher.deadline()), (Some(later), Some(now + TIMEOUT)));
        let (verdicts, next) = batcher.answered(reply(&first), later).expect("the first answer");
        assert_eq!((verdicts.len(), next.map(|ask| ask.batch)), (1, Some(1)));
        assert_eq!(batcher.answered(reply(&first), later), Err(BatchError::Stale { batch: 0 }), "the second");
    }

    #[test]
    fn an_answer_of_the_wrong_length_changes_nothing() {
        let (mut batcher, now) = (batcher(100), Instant::now());
        let ask = batcher.ask(question(0), 0, now).expect("room").expect("sent at once");
        let mut wrong = reply(&ask);
        wrong.answers.push(Verdict { server: None, keep: None });
        let error = BatchError::Length { batch: 0, asked: 1, answered: 2 };
        assert_eq!(batcher.answered(wrong, now), Err(error));
        assert_eq!(batcher.answered(reply(&ask), now).expect("the answer due").0.len(), 1);
    }

    #[test]
    fn batch_numbers_wrap_around() {
        let (mut batcher, now) = (batcher(100), Instant::now());
        batcher.next_batch = u32::MAX;
        for expected in [u32::MAX, 0] {
            let ask = batcher.ask(question(0), 0, now).expect("room").expect("sent at once");
            assert_eq!(ask.batch, expected);
            batcher.answered(reply(&ask), now).expect("the answer due");
        }
    }

    /// What may happen to a batcher.
    #[derive(Clone, Debug)]
    enum Step {
        Ask,
        Answer,
        AnswerWrongBatch,
        Again,
        Wait(u64),
        Drain,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => Just(Step::Ask),
            4 => Just(Step::Answer),
            1 => Just(Step::AnswerWrongBatch),
            1 => Just(Step::Again),
            1 => (1u64..150).prop_map(Step::Wait),
            1 => Just(Step::Drain),
        ]
    }

    /// The naive model: one list of undecided numbers, of which the first `under_way` are asked.
    #[derive(Default)]
    struct Model {
        undecided: Vec<u64>,
        under_way: usize,
        asked_at_ms: u64,
    }

    impl Model {
        fn send(&mut self, now_ms: u64) -> Vec<u64> {
            self.under_way = self.undecided.len().min(QUESTIONS_MAX);
            self.asked_at_ms = now_ms;
            self.undecided[..self.under_way].to_vec()
        }
    }

    fn numbers(ask: Option<&Ask>) -> Vec<u64> {
        let questions = ask.map(|ask| ask.questions.as_slice()).unwrap_or_default();
        questions.iter().filter_map(|question| question.target).map(|target| target.0).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(steps in prop::collection::vec(step(), 0..200), max in 1usize..30) {
            let start = Instant::now();
            let (mut batcher, mut model) = (batcher(max), Model::default());
            let (mut last, mut now_ms, mut asked) = (None::<Ask>, 0, 0u64);
            for step in steps {
                let now = start + Duration::from_millis(now_ms);
                match step {
                    Step::Ask => {
                        asked += 1;
                        let got = batcher.ask(question(asked), asked, now);
                        if model.undecided.len() == max {
                            prop_assert_eq!(got, Err((asked, BatchError::Full { undecided: max })));
                            continue;
                        }
                        model.undecided.push(asked);
                        let expected = if model.under_way == 0 { model.send(now_ms) } else { Vec::new() };
                        let got = got.expect("there is room");
                        prop_assert_eq!(numbers(got.as_ref()), expected);
                        last = got.or(last);
                    }
                    Step::Answer => {
                        let Some(ask) = last.as_ref().filter(|_| model.under_way > 0) else { continue };
                        let (verdicts, next) = batcher.answered(reply(ask), now).expect("the answer due");
                        for (token, verdict) in &verdicts {
                            prop_assert_eq!(verdict.server, server(&question(*token)));
                        }
                        let tokens: Vec<u64> = verdicts.into_iter().map(|(token, _)| token).collect();
                        let expected: Vec<u64> = model.undecided.drain(..model.under_way).collect();
                        prop_assert_eq!(tokens, expected);
                        prop_assert_eq!(numbers(next.as_ref()), model.send(now_ms));
                        last = next;
                    }
                    Step::AnswerWrongBatch => {
                        let batch = last.as_ref().map_or(7, |ask| ask.batch.wrapping_sub(1));
                        let wrong = Answer { batch, answers: Vec::new() };
                        prop_assert_eq!(batcher.answered(wrong, now), Err(BatchError::Stale { batch }));
                    }
                    Step::Again => {
                        let again = batcher.again(now);
                        prop_assert_eq!(numbers(again.as_ref()), &model.undecided[..model.under_way]);
                        prop_assert!(again.is_none() || again == last, "what was asked last");
                    }
                    Step::Wait(ms) => {
                        now_ms += ms;
                        let failed = batcher.expire(start + Duration::from_millis(now_ms));
                        let due = model.under_way > 0 && now_ms - model.asked_at_ms >= 100;
                        let expected = if due { std::mem::take(&mut model).undecided } else { Vec::new() };
                        prop_assert_eq!(failed, expected);
                    }
                    Step::Drain => {
                        prop_assert_eq!(batcher.drain(), std::mem::take(&mut model).undecided);
                    }
                }
                prop_assert_eq!(batcher.undecided(), model.undecided.len());
                prop_assert_eq!(batcher.deadline().is_some(), model.under_way > 0);
            }
        }
    }
}
