//! What may start next: a pure state machine over GPU slots, without processes or clocks.

use std::collections::{BTreeSet, VecDeque};

use crate::case::Scope;

/// Index of a job.
pub(super) type JobId = usize;

/// One child of a case that has to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    /// Index of its case in the plan.
    pub planned: usize,
    /// 1 or 2.
    pub attempt: u32,
    /// Where it runs.
    pub scope: Scope,
    /// The slots of its GPUs; empty for the host.
    pub slots: Vec<usize>,
}

/// What may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// A job.
    Job(JobId),
    /// The probe of a slot.
    Probe(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Busy,
    Quarantined,
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// A case failed on it since its last probe.
    suspect: bool,
    /// Its own jobs and every node job, in order.
    waiting: VecDeque<JobId>,
}

/// Jobs, and the slots that they wait for. A node job stands in the queue of every slot, so that it
/// is a barrier for all of them, and the order of the plan holds on each.
#[derive(Debug)]
pub(super) struct Queue {
    jobs: Vec<Job>,
    slots: Vec<Slot>,
    host: VecDeque<JobId>,
    host_busy: bool,
    node_busy: bool,
}

impl Queue {
    pub(super) fn new(slots: usize) -> Queue {
        let slot = || Slot { state: State::Idle, suspect: false, waiting: VecDeque::new() };
        Queue {
            jobs: Vec::new(),
            slots: (0..slots).map(|_| slot()).collect(),
            host: VecDeque::new(),
            host_busy: false,
            node_busy: false,
        }
    }

    pub(super) fn job(&self, id: JobId) -> &Job {
        &self.jobs[id]
    }

    /// Adds a job that waits: behind all others, or, for a second attempt, before them.
    pub(super) fn add(&mut self, job: Job, before_others: bool) -> JobId {
        let id = self.jobs.len();
        let put = |waiting: &mut VecDeque<JobId>| match before_others {
            true => waiting.push_front(id),
            false => waiting.push_back(id),
        };
        match job.scope {
            Scope::Host => put(&mut self.host),
            Scope::EachGpu | Scope::OneGpu => {
                job.slots.iter().for_each(|slot| put(&mut self.slots[*slot].waiting));
            }
            Scope::Node => self.slots.iter_mut().for_each(|slot| put(&mut slot.waiting)),
        }
        self.jobs.push(job);
        id
    }

    /// Takes the next thing that may start now, and counts it as running.
    pub(super) fn start(&mut self) -> Option<Start> {
        if self.node_busy {
            return None;
        }
        let needs_probe =
            |slot: &Slot| slot.state == State::Idle && slot.suspect && !slot.waiting.is_empty();
        if let Some(slot) = self.slots.iter().position(needs_probe) {
            self.slots[slot].state = State::Busy;
            return Some(Start::Probe(slot));
        }
        if let Some(id) = self.node_at_gate() {
            // No host job starts before it either, or a row of them could hold it up.
            return (!self.host_busy).then(|| self.take(id));
        }
        let head =
            |slot: &Slot| slot.waiting.front().copied().filter(|_| slot.state == State::Idle);
        let mut heads = self.slots.iter().filter_map(head);
        let beside = |id: &JobId| matches!(self.jobs[*id].scope, Scope::EachGpu | Scope::OneGpu);
        let each = heads.find(beside);
        let host = || self.host.front().copied().filter(|_| !self.host_busy);
        each.or_else(host).map(|id| self.take(id))
    }

    /// The node job that every usable slot waits at, idle.
    fn node_at_gate(&self) -> Option<JobId> {
        let mut usable = self.slots.iter().filter(|slot| slot.state != State::Quarantined);
        let first = usable.clone().next()?.waiting.front().copied()?;
        let at_gate =
            |slot: &Slot| slot.state == State::Idle && slot.waiting.front() == Some(&first);
        (self.jobs[first].scope == Scope::Node && usable.all(at_gate)).then_some(first)
    }

    fn take(&mut self, id: JobId) -> Start {
        self.forget(id);
        let job = &self.jobs[id];
        self.node_busy |= job.scope == Scope::Node;
        self.host_busy |= job.scope == Scope::Host;
        for slot in &job.slots {
            self.slots[*slot].state = State::Busy;
        }
        Start::Job(id)
    }

    /// Takes a job out of every queue.
    pub(super) fn forget(&mut self, id: JobId) {
        self.host.retain(|waiting| *waiting != id);
        for slot in &mut self.slots {
            slot.waiting.retain(|waiting| *waiting != id);
        }
    }

    /// A job ended. Its slots are probed before their next job if they are suspect.
    pub(super) fn ended(&mut self, id: JobId, suspect: bool) {
        let job = &self.jobs[id];
        self.node_busy &= job.scope != Scope::Node;
        self.host_busy &= job.scope != Scope::Host;
        for slot in &job.slots {
            let slot = &mut self.slots[*slot];
            slot.suspect |= suspect;
            if slot.state == State::Busy {
                slot.state = State::Idle;
            }
        }
    }

    /// A probe ended well, or was interrupted and said nothing.
    pub(super) fn probed(&mut self, slot: usize, usable: bool) {
        self.slots[slot].state = State::Idle;
        self.slots[slot].suspect &= !usable;
    }

    /// Takes a slot out of the run. Returns the jobs that waited for it, which will never run.
    pub(super) fn quarantine(&mut self, slot: usize) -> Vec<JobId> {
        self.slots[slot].state = State::Quarantined;
        let waiting: Vec<JobId> = self.slots[slot].waiting.drain(..).collect();
        let lost: Vec<JobId> =
            waiting.into_iter().filter(|id| self.jobs[*id].slots.contains(&slot)).collect();
        lost.iter().for_each(|id| self.forget(*id));
        lost
    }

    pub(super) fn is_quarantined(&self, slot: usize) -> bool {
        self.slots[slot].state == State::Quarantined
    }

    /// The jobs that wait, in the order of the plan.
    pub(super) fn waiting(&self) -> Vec<JobId> {
        let slots = self.slots.iter().flat_map(|slot| &slot.waiting);
        let ids: BTreeSet<JobId> = slots.chain(&self.host).copied().collect();
        let mut ids: Vec<JobId> = ids.into_iter().collect();
        ids.sort_by_key(|id| (self.jobs[*id].planned, *id));
        ids
    }

    /// Empties the queues and returns what waited in them.
    pub(super) fn drain(&mut self) -> Vec<JobId> {
        let ids = self.waiting();
        ids.iter().for_each(|id| self.forget(*id));
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(slots: usize, jobs: &[(Scope, &[usize])]) -> Queue {
        let mut queue = Queue::new(slots);
        for (planned, (scope, slots)) in jobs.iter().enumerate() {
            queue.add(Job { planned, attempt: 1, scope: *scope, slots: slots.to_vec() }, false);
        }
        queue
    }

    #[track_caller]
    fn check(queue: &mut Queue, expect: &[Start]) {
        let started: Vec<Start> = std::iter::from_fn(|| queue.start()).collect();
        assert_eq!(started, expect);
    }

    use Scope::{EachGpu, Host, Node};
    use Start::{Job as J, Probe};

    #[test]
    fn each_gpu_goes_on_by_itself_in_order() {
        let mut q = queue(2, &[(EachGpu, &[0]), (EachGpu, &[1]), (EachGpu, &[0]), (EachGpu, &[1])]);
        check(&mut q, &[J(0), J(1)]);
        q.ended(0, false);
        check(&mut q, &[J(2)]);
        q.ended(2, false);
        check(&mut q, &[]);
        q.ended(1, false);
        check(&mut q, &[J(3)]);
    }

    #[test]
    fn a_node_job_runs_alone() {
        let mut q = queue(
            3,
            &[(EachGpu, &[0]), (Host, &[]), (Node, &[0, 1]), (Host, &[]), (EachGpu, &[2])],
        );
        // gpu2 is no GPU of the node job and yet waits for it: nothing else runs meanwhile.
        check(&mut q, &[J(0), J(1)]);
        q.ended(0, false);
        check(&mut q, &[]);
        q.ended(1, false);
        check(&mut q, &[J(2)]);
        q.ended(2, false);
        check(&mut q, &[J(4), J(3)]);
    }

    #[test]
    fn one_host_job_at_a_time() {
        let mut q = queue(0, &[(Host, &[]), (Host, &[])]);
        check(&mut q, &[J(0)]);
        q.ended(0, true);
        check(&mut q, &[J(1)]);
    }

    #[test]
    fn a_suspect_is_probed_before_its_next_job() {
        let mut q = queue(2, &[(EachGpu, &[0]), (EachGpu, &[1]), (Node, &[0, 1])]);
        check(&mut q, &[J(0), J(1)]);
        q.ended(0, true);
        check(&mut q, &[Probe(0)]);
        q.ended(1, false);
        check(&mut q, &[]);
        q.probed(0, true);
        check(&mut q, &[J(2)]);
        q.ended(2, true);
        // Nothing waits for them: no probe.
        check(&mut q, &[]);
    }

    #[test]
    fn a_quarantined_slot_loses_its_jobs_and_holds_nobody_up() {
        let mut q = queue(
            3,
            &[(EachGpu, &[0]), (Node, &[0, 1]), (EachGpu, &[0]), (Node, &[1, 2]), (EachGpu, &[1])],
        );
        check(&mut q, &[J(0)]);
        q.ended(0, true);
        check(&mut q, &[Probe(0)]);
        assert_eq!(q.quarantine(0), [1, 2]);
        assert!(q.is_quarantined(0));
        check(&mut q, &[J(3)]);
        q.ended(3, false);
        check(&mut q, &[J(4)]);
        assert!(q.waiting().is_empty());
    }

    #[test]
    fn a_second_attempt_comes_before_what_waits() {
        let mut q = queue(2, &[(EachGpu, &[0]), (EachGpu, &[1]), (Node, &[0, 1])]);
        check(&mut q, &[J(0), J(1)]);
        q.ended(0, false);
        q.ended(1, false);
        for slot in [0, 1] {
            q.add(Job { planned: 0, attempt: 2, scope: EachGpu, slots: vec![slot] }, true);
        }
        assert_eq!(q.waiting(), [3, 4, 2]);
        check(&mut q, &[J(3), J(4)]);
        q.ended(3, false);
        q.ended(4, false);
        assert_eq!(q.drain(), [2]);
        check(&mut q, &[]);
    }
}
