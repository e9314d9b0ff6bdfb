//! The loop: start what may start, poll what runs, deliver what has ended.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::queue::{Job, JobId, Queue, Start};
use super::rules::{
    in_time, indices, jobs_of, kept_of, left_of, makes_suspect, prepare, probe_verdict, redactor_of,
};
use super::{Event, Left, Planned, Settings, remaining_s};
use crate::case::Case;
use crate::child::{self, Context, Finished, Launch, Process, Redactor, Why};
use crate::evidence::{Device, Failure, How, Outcome, Part};
use crate::interrupt::Interrupt;
use crate::node::{Node, NodeGpu, XidWatch};
use crate::record::{Assigned, Assignment};

/// Time between two looks at the children.
const POLL: Duration = Duration::from_millis(10);

/// Time between two foretellings.
const FORETELL: Duration = Duration::from_secs(1);

pub(super) struct Runner<'a> {
    node: &'a dyn Node,
    cases: &'a [&'static Case],
    settings: &'a Settings,
    again: &'a mut dyn FnMut(&'static Case, &[Part]) -> bool,
    events: &'a mut dyn FnMut(Event),
    plan: Vec<Progress>,
    gpus: Vec<NodeGpu>,
    queue: Queue,
    running: Vec<Running>,
    work: PathBuf,
    environment: Result<BTreeMap<String, String>, String>,
    redactor: Redactor,
    children: u64,
    interrupted: bool,
    begun: Instant,
    foretold: Instant,
}

/// How far a planned case has come.
struct Progress {
    case: &'static Case,
    started: bool,
    /// A child of it was begun in time.
    begun: bool,
    outstanding: usize,
    parts: Vec<Part>,
}

/// A child and what it runs.
struct Running {
    start: Start,
    case: &'static Case,
    attempt: u32,
    gpus: Vec<NodeGpu>,
    process: Process,
    result: PathBuf,
    watch: Option<Box<dyn XidWatch>>,
    stage: Option<String>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        node: &'a dyn Node,
        cases: &'a [&'static Case],
        planned: Vec<Planned>,
        settings: &'a Settings,
        again: &'a mut dyn FnMut(&'static Case, &[Part]) -> bool,
        events: &'a mut dyn FnMut(Event),
    ) -> Runner<'a> {
        let by_uuid: BTreeMap<&str, &NodeGpu> =
            planned.iter().flat_map(|p| &p.gpus).map(|gpu| (gpu.uuid.as_str(), gpu)).collect();
        let mut gpus: Vec<NodeGpu> = by_uuid.into_values().cloned().collect();
        gpus.sort_by_key(|gpu| gpu.device.gpu);
        let mut queue = Queue::new(gpus.len());
        let mut plan = Vec::new();
        let mut busy = vec![0.0; gpus.len()];
        for (index, planned) in planned.iter().enumerate() {
            let jobs = jobs_of(planned, index, &gpus, &mut busy);
            plan.push(Progress {
                case: planned.case,
                started: false,
                begun: false,
                outstanding: jobs.len(),
                parts: Vec::new(),
            });
            for job in jobs {
                queue.add(job, false);
            }
        }
        let work = settings.folder.join("work");
        let environment = prepare(node, settings, &work);
        let redactor = redactor_of(settings, &gpus);
        Runner {
            node,
            cases,
            settings,
            again,
            events,
            plan,
            gpus,
            queue,
            running: Vec::new(),
            work,
            environment,
            redactor,
            children: 0,
            interrupted: false,
            begun: Instant::now(),
            foretold: Instant::now(),
        }
    }

    pub(super) fn run(mut self, interrupt: &Interrupt) {
        self.refuse_cases_without_gpus();
        loop {
            if interrupt.asked() {
                self.stop(interrupt.now());
            } else {
                while let Some(start) = self.queue.start() {
                    self.start(start);
                }
            }
            if self.running.is_empty() {
                self.refuse_stalled();
                break;
            }
            self.collect();
            self.foretell();
            std::thread::sleep(POLL);
        }
        // A child that could not be killed may still write here; the folder is then left.
        let _ = fs::remove_dir_all(&self.work);
    }

    /// Nothing runs and nothing may start: what still waits would wait forever.
    fn refuse_stalled(&mut self) {
        for id in self.queue.drain() {
            let detail = "the scheduler found no way to start it: a defect of the runner";
            self.job_never_ran(id, How::NotStarted, detail.to_owned());
        }
    }

    /// A case that was planned without the GPUs it needs is delivered as what it is.
    fn refuse_cases_without_gpus(&mut self) {
        for index in 0..self.plan.len() {
            if self.plan[index].outstanding == 0 {
                let case = self.plan[index].case;
                let detail = "was planned without a GPU".to_owned();
                self.plan[index].outstanding = 1;
                let part = self.unrun(case, &[], 1, How::NotStarted, detail);
                self.job_ended(index, part);
            }
        }
    }

    fn gpus_of(&self, slots: &[usize]) -> Vec<NodeGpu> {
        slots.iter().map(|slot| self.gpus[*slot].clone()).collect()
    }

    fn start(&mut self, start: Start) {
        match start {
            Start::Job(id) => self.start_job(id),
            Start::Probe(slot) => self.start_probe(slot),
        }
    }

    fn start_job(&mut self, id: JobId) {
        let Job { planned, attempt, ref slots, .. } = *self.queue.job(id);
        let gpus = self.gpus_of(slots);
        let case = self.plan[planned].case;
        if !std::mem::replace(&mut self.plan[planned].started, true) {
            (self.events)(Event::CaseStarted { case });
        }
        // What has begun on one GPU is measured on all, and a second attempt was granted.
        let limit = self.settings.time_limit.filter(|_| !self.plan[planned].begun);
        if let Err(why) =
            in_time(case, attempt, (limit, kept_of(self.settings, case)), self.begun.elapsed())
        {
            self.queue.ended(id, false);
            let part = self.with_context(case, &gpus, attempt, |context| {
                child::unrun(Outcome::NotRun(why), context)
            });
            self.job_ended(planned, part);
            return;
        }
        self.plan[planned].begun = true;
        match self.launch(Start::Job(id), case, attempt, gpus.clone()) {
            Ok(()) => {
                let gpus = indices(&gpus);
                (self.events)(Event::PartStarted { case, gpus, attempt });
            }
            Err(detail) => {
                self.queue.ended(id, false);
                let part = self.unrun(case, &gpus, attempt, How::NotStarted, detail);
                self.job_ended(planned, part);
            }
        }
    }

    fn start_probe(&mut self, slot: usize) {
        let gpus = self.gpus_of(&[slot]);
        (self.events)(Event::Probing { gpu: gpus[0].device.gpu });
        let id = self.node.probe_case();
        let probe = self.cases.iter().find(|case| case.id == id).copied();
        let launched = match probe {
            Some(case) => self.launch(Start::Probe(slot), case, 1, gpus),
            None => Err(format!("this executable has no case {id}")),
        };
        if let Err(error) = launched {
            self.quarantine(slot, &format!("it could not be probed after a failure: {error}"));
        }
    }

    fn launch(
        &mut self,
        start: Start,
        case: &'static Case,
        attempt: u32,
        gpus: Vec<NodeGpu>,
    ) -> Result<(), String> {
        let environment = self.environment.as_ref().map_err(String::clone)?;
        self.children += 1;
        let result = self.work.join(format!("{}.result.json", self.children));
        let devices =
            gpus.iter().map(|gpu| Assigned { uuid: gpu.uuid.clone(), device: gpu.device.clone() });
        let assignment = Assignment {
            case: case.id.to_owned(),
            tier: self.settings.tier,
            attempt,
            devices: devices.collect(),
            seed: self.settings.seed,
            self_test: self.settings.self_test,
            cache: self.settings.cache.clone(),
            root: self.settings.root.clone(),
            result: result.clone(),
        };
        let uuids: Vec<String> = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let watch = if uuids.is_empty() { None } else { self.node.watch(&uuids) };
        let process = child::spawn(&Launch {
            command: &self.settings.command,
            assignment: &assignment,
            file: &self.work.join(format!("{}.assignment.json", self.children)),
            environment,
            // A second attempt takes twice the samples.
            deadline: Duration::try_from_secs_f64(case.deadline_s * f64::from(attempt))
                .map_err(|e| format!("deadline of {} s: {e}", case.deadline_s))?,
        })?;
        self.running.push(Running {
            start,
            case,
            attempt,
            gpus,
            process,
            result,
            watch,
            stage: None,
        });
        Ok(())
    }

    /// Polls every child once and delivers those that ended.
    fn collect(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let running = &mut self.running[index];
            let finished = running.process.poll();
            let stage = running.process.progress();
            if stage.is_some() && stage != running.stage {
                running.stage = stage.clone();
                (self.events)(Event::Progress {
                    case: running.case,
                    gpus: indices(&running.gpus),
                    stage: stage.unwrap_or_default(),
                });
            }
            match finished {
                Some(finished) => {
                    let running = self.running.remove(index);
                    self.child_ended(&running, &finished);
                }
                None => index += 1,
            }
        }
    }

    fn child_ended(&mut self, running: &Running, finished: &Finished) {
        let seen = |watch: &dyn XidWatch| {
            running.gpus.iter().flat_map(|gpu| watch.seen(&gpu.uuid)).collect()
        };
        let xids = running.watch.as_deref().map(seen).unwrap_or_default();
        let part = self.with_context(running.case, &running.gpus, running.attempt, |context| {
            child::part(finished, &running.result, xids, context)
        });
        let unkillable = finished.end == child::End::Unkillable;
        match running.start {
            Start::Job(id) => self.started_job_ended(id, running, part, unkillable),
            Start::Probe(slot) => self.probe_ended(slot, running.case, &part, unkillable),
        }
    }

    fn started_job_ended(&mut self, id: JobId, running: &Running, part: Part, unkillable: bool) {
        (self.events)(Event::PartEnded {
            case: running.case,
            gpus: indices(&running.gpus),
            attempt: running.attempt,
            outcome: child::word(&part.outcome),
            wall_s: part.wall_s,
        });
        let Job { planned, ref slots, .. } = *self.queue.job(id);
        let slots = slots.clone();
        self.queue.ended(id, makes_suspect(&part.outcome));
        if unkillable {
            for slot in slots {
                self.quarantine(slot, &format!("a child of {} cannot be killed", running.case.id));
            }
        }
        self.job_ended(planned, part);
    }

    fn probe_ended(&mut self, slot: usize, probe: &Case, part: &Part, unkillable: bool) {
        let verdict = probe_verdict(probe, part);
        if let (true, false) = (self.interrupted, unkillable) {
            self.queue.probed(slot, verdict.is_ok());
            return;
        }
        match verdict {
            Ok(()) => self.queue.probed(slot, true),
            Err(why) => self.quarantine(slot, &format!("its probe failed: {why}")),
        }
    }

    /// Takes a GPU out of the run, with all jobs that wait for it.
    fn quarantine(&mut self, slot: usize, why: &str) {
        if self.queue.is_quarantined(slot) {
            return;
        }
        let gpu = self.gpus[slot].device.gpu;
        let why = self.redactor.apply(why);
        let lost = self.queue.quarantine(slot);
        (self.events)(Event::Quarantined { gpu, why: why.clone() });
        for id in lost {
            let detail = format!("gpu{gpu} is quarantined: {why}");
            self.job_never_ran(id, How::Quarantined, detail);
        }
    }

    fn job_never_ran(&mut self, id: JobId, how: How, detail: String) {
        let Job { planned, attempt, ref slots, .. } = *self.queue.job(id);
        let gpus = self.gpus_of(slots);
        let part = self.unrun(self.plan[planned].case, &gpus, attempt, how, detail);
        self.job_ended(planned, part);
    }

    /// Takes a part; when it is the last one of its attempt, measures again or delivers the case.
    fn job_ended(&mut self, planned: usize, part: Part) {
        let progress = &mut self.plan[planned];
        progress.parts.push(part);
        progress.outstanding -= 1;
        if progress.outstanding > 0 {
            return;
        }
        progress
            .parts
            .sort_by_key(|part| (part.attempt, part.devices.first().map(|device| device.gpu)));
        let is_good = |part: &Part| part.attempt == 1 && part.outcome == Outcome::Completed;
        let (limit, elapsed) = (self.settings.time_limit, self.begun.elapsed());
        let kept = kept_of(self.settings, progress.case);
        let may_repeat = !self.interrupted
            && progress.parts.iter().all(is_good)
            && in_time(progress.case, 2, (limit, kept), elapsed).is_ok();
        if may_repeat && (self.again)(progress.case, &progress.parts) {
            self.repeat(planned);
            return;
        }
        let parts = std::mem::take(&mut self.plan[planned].parts);
        (self.events)(Event::CaseEnded { case: self.plan[planned].case, parts });
    }

    /// Queues the same jobs as a second attempt, before all that waits.
    fn repeat(&mut self, planned: usize) {
        let slot_of =
            |device: &Device| self.gpus.iter().position(|gpu| gpu.device.gpu == device.gpu);
        let parts = &self.plan[planned].parts;
        let sets: Vec<Vec<usize>> =
            parts.iter().map(|part| part.devices.iter().filter_map(slot_of).collect()).collect();
        let scope = self.plan[planned].case.scope;
        self.plan[planned].outstanding = sets.len();
        let mut lost = Vec::new();
        for slots in sets {
            let is_lost = slots.iter().any(|slot| self.queue.is_quarantined(*slot));
            let id = self.queue.add(Job { planned, attempt: 2, scope, slots }, true);
            if is_lost {
                lost.push(id);
            }
        }
        for id in lost {
            self.queue.forget(id);
            let detail = "a GPU was quarantined after the first attempt".to_owned();
            self.job_never_ran(id, How::Quarantined, detail);
        }
    }

    /// Ends what runs and delivers what has not begun as interrupted.
    fn stop(&mut self, now: bool) {
        self.interrupted = true;
        for id in self.queue.drain() {
            self.job_never_ran(id, How::Interrupted, "interrupted before it began".to_owned());
        }
        for running in &mut self.running {
            match now {
                true => running.process.end_now(Why::Interrupt),
                false => running.process.end(Why::Interrupt),
            }
        }
    }

    fn unrun(
        &self,
        case: &'static Case,
        gpus: &[NodeGpu],
        attempt: u32,
        how: How,
        detail: String,
    ) -> Part {
        self.with_context(case, gpus, attempt, |context| {
            let repro = context.repro.to_owned();
            child::unrun(Outcome::Failed(Failure { how, detail, repro }), context)
        })
    }

    fn with_context(
        &self,
        case: &'static Case,
        gpus: &[NodeGpu],
        attempt: u32,
        make: impl FnOnce(&Context) -> Part,
    ) -> Part {
        let devices: Vec<Device> = gpus.iter().map(|gpu| gpu.device.clone()).collect();
        let repro = (self.settings.repro)(case.id, &indices(gpus));
        make(&Context { attempt, devices: &devices, repro: &repro, redactor: &self.redactor })
    }

    fn foretell(&mut self) {
        if self.foretold.elapsed() < FORETELL {
            return;
        }
        self.foretold = Instant::now();
        let running = self.running.iter().map(|running| {
            let elapsed_s = Some(running.process.elapsed().as_secs_f64());
            left_of(running.case, indices(&running.gpus), running.attempt, elapsed_s)
        });
        let waiting = self.queue.waiting();
        let waiting = waiting.iter().map(|id| {
            let job = self.queue.job(*id);
            let gpus = indices(&self.gpus_of(&job.slots));
            left_of(self.plan[job.planned].case, gpus, job.attempt, None)
        });
        let left: Vec<Left> = running.chain(waiting).collect();
        (self.events)(Event::Foretold { remaining_s: remaining_s(&left) });
    }
}
