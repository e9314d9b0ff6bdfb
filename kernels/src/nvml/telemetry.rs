//! What the GPUs do while something else runs: samples and critical Xids, on threads of ours.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::{Bits, NvmlError};
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, EventSet};
use nvml_wrapper_sys::bindings::field_id;

use super::{Answer, Session, told, watts};

/// One look at one GPU. `None`: the machine does not tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Milliseconds since the session began.
    pub t_ms: f64,
    /// Power of the board; NVML averages over a second on some boards.
    pub power_w: Option<f64>,
    /// SM clock.
    pub sm_clock_mhz: Option<u32>,
    /// Memory clock.
    pub memory_clock_mhz: Option<u32>,
    /// GPU die.
    pub temperature_c: Option<u32>,
    /// Memory stacks.
    pub memory_temperature_c: Option<u32>,
    /// Percent of NVML's last period in which a kernel ran.
    pub utilization_percent: Option<u32>,
    /// What holds the clocks down, see [`decode_throttle`]; empty where nothing does.
    pub throttle: Option<Vec<&'static str>>,
    /// Energy since the driver was loaded.
    pub energy_j: Option<f64>,
}

/// The words for NVML's throttle bits (`nvmlClocksEventReasons` in nvml.h), lowest bit first.
/// Bits without a name give `unknown`, once.
pub fn decode_throttle(bits: u64) -> Vec<&'static str> {
    const NAMES: [&str; 9] = [
        "gpu_idle",
        "applications_clocks",
        "sw_power_cap",
        "hw_slowdown",
        "sync_boost",
        "sw_thermal",
        "hw_thermal",
        "hw_power_brake",
        "display",
    ];
    let named = NAMES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
    let unknown = (bits >> NAMES.len() != 0).then_some("unknown");
    named.map(|(_, name)| *name).chain(unknown).collect()
}

/// Reads one sample. The time is taken before the first value.
pub(super) fn read(start: Instant, device: &Device) -> Answer<Sample> {
    let t_ms = start.elapsed().as_secs_f64() * 1e3;
    let throttle = match device.current_throttle_reasons_strict() {
        // A driver newer than the wrapper: the bits are good all the same.
        Err(NvmlError::IncorrectBits(Bits::U64(bits))) => Some(bits),
        answer => told(answer)?.map(|reasons| reasons.bits()),
    };
    Ok(Sample {
        t_ms,
        power_w: watts(told(device.power_usage())?),
        sm_clock_mhz: told(device.clock_info(Clock::SM))?,
        memory_clock_mhz: told(device.clock_info(Clock::Memory))?,
        temperature_c: told(device.temperature(TemperatureSensor::Gpu))?,
        memory_temperature_c: memory_temperature_c(device)?,
        utilization_percent: told(device.utilization_rates())?.map(|rates| rates.gpu),
        throttle: throttle.map(decode_throttle),
        energy_j: told(device.total_energy_consumption())?.map(|mj| mj as f64 / 1e3),
    })
}

fn memory_temperature_c(device: &Device) -> Answer<Option<u32>> {
    let fields = device.field_values_for(&[FieldId(field_id::NVML_FI_DEV_MEMORY_TEMP)]);
    let field = told(fields)?.and_then(|fields| fields.into_iter().next());
    let value = field.and_then(|field| field.ok()).and_then(|field| field.value.ok());
    Ok(match value {
        // Boards without the sensor answer 0.
        Some(SampleValue::U32(celsius)) => Some(celsius).filter(|&celsius| celsius > 0),
        _ => None,
    })
}

/// The samples of one GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The GPU.
    pub uuid: String,
    /// In the order of time, at most 4096.
    pub samples: Vec<Sample>,
    /// The first failure to read the GPU; samples before and after it are kept.
    pub failure: Option<String>,
}

const SAMPLES_MAX: usize = 4096;

/// A thread that samples GPUs until it is stopped. Needs a device.
///
/// Memory is bounded: where a GPU has 4096 samples, every other one is dropped and the interval
/// doubles, so that a series always spans the whole time evenly.
#[derive(Debug)]
pub struct Sampler {
    /// Dropping it wakes the thread and ends it.
    stop: Sender<()>,
    thread: JoinHandle<Vec<Series>>,
}

impl Sampler {
    /// Starts sampling at once and then every `interval`, at least 1 ms. A GPU that
    /// cannot be opened or read has the reason in its [`Series::failure`].
    pub fn start(session: Arc<Session>, uuids: &[String], interval: Duration) -> Sampler {
        let (stop, stopped) = mpsc::channel();
        let uuids = uuids.to_vec();
        let thread = thread::spawn(move || {
            let mut interval = interval.max(Duration::from_millis(1));
            let mut devices: Vec<Option<Device>> = Vec::new();
            let mut series: Vec<Series> = Vec::new();
            for uuid in uuids {
                let opened = session.device(&uuid);
                let failure = opened.as_ref().err().map(ToString::to_string);
                devices.push(opened.ok());
                series.push(Series { uuid, samples: Vec::new(), failure });
            }
            loop {
                for (device, series) in devices.iter().zip(&mut series) {
                    let Some(device) = device else { continue };
                    match read(session.start, device) {
                        Ok(sample) => series.samples.push(sample),
                        Err(error) if series.failure.is_none() => {
                            series.failure = Some(error.to_string());
                        }
                        Err(_) => {}
                    }
                }
                if series.iter().any(|series| series.samples.len() >= SAMPLES_MAX) {
                    series.iter_mut().for_each(|series| decimate(&mut series.samples));
                    interval *= 2;
                }
                if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    return series;
                }
            }
        });
        Sampler { stop, thread }
    }

    /// Ends the thread, waiting at most for the sample under way, and returns one series for
    /// each UUID given, in that order.
    pub fn stop(self) -> Vec<Series> {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Drops every other sample, keeping the first.
fn decimate(samples: &mut Vec<Sample>) {
    let mut index = 0;
    samples.retain(|_| {
        index += 1;
        index % 2 == 1
    });
}

/// A critical Xid: an error of the driver or the GPU, see NVIDIA's Xid catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct XidEvent {
    /// Milliseconds since the session began.
    pub t_ms: f64,
    /// The GPU.
    pub uuid: String,
    /// Number in NVIDIA's catalogue; 999 where NVML knows none.
    pub xid: u64,
}

/// A thread that waits for critical Xids of GPUs until it is dropped. Needs a device.
#[derive(Debug)]
pub struct XidWatch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<XidEvent>>>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl XidWatch {
    /// Starts watching; returns once every GPU is watched or it is known that one cannot be.
    pub fn start(session: Arc<Session>, uuids: &[String]) -> XidWatch {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stopping, found) = (Arc::clone(&stop), Arc::clone(&seen));
        let (ready, is_ready) = mpsc::channel();
        let uuids = uuids.to_vec();
        let thread = thread::spawn(move || {
            let events = register(&session, &uuids);
            drop(ready);
            collect_xids(&session, &events?, &stopping, &found)
        });
        // The answer is always that the other end is gone: registration is over.
        let _: Result<(), _> = is_ready.recv();
        XidWatch { stop, seen, thread: Some(thread) }
    }

    /// The watch still runs. `false`: Xids cannot be watched here, and an empty list means nothing.
    pub fn is_watching(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Xids seen so far on the GPU, oldest first.
    pub fn seen(&self, uuid: &str) -> Vec<XidEvent> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|event| event.uuid == uuid).cloned().collect()
    }

    /// Ends the thread within 50 ms and returns everything seen. The error is a text that says why
    /// Xids could not be watched.
    pub fn stop(mut self) -> Result<Vec<XidEvent>, String> {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for XidWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// One set of events with the critical Xids of every GPU.
fn register<'a>(session: &'a Session, uuids: &[String]) -> Result<EventSet<'a>, String> {
    let mut events = session.nvml.create_event_set().map_err(|error| error.to_string())?;
    for uuid in uuids {
        let device = session.device(uuid).map_err(|error| error.to_string())?;
        let failed = |error: &dyn std::fmt::Display| {
            format!("critical xid events are not supported: gpu {uuid}: {error}")
        };
        let supported = device.supported_event_types().map_err(|error| failed(&error))?;
        if !supported.contains(EventTypes::CRITICAL_XID_ERROR) {
            return Err(failed(&"not among its event types"));
        }
        let registered = device.register_events(EventTypes::CRITICAL_XID_ERROR, events);
        events = registered.map_err(|error| failed(&error))?;
    }
    Ok(events)
}

/// Collects until told to stop, then takes what is still queued.
fn collect_xids(
    session: &Session,
    events: &EventSet,
    stopping: &AtomicBool,
    seen: &Mutex<Vec<XidEvent>>,
) -> Result<(), String> {
    const WAIT_MS: u32 = 50;
    loop {
        let last = stopping.load(Ordering::Acquire);
        match events.wait(if last { 0 } else { WAIT_MS }) {
            Ok(event) => {
                let xid = match event.event_data {
                    Some(XidError::Value(xid)) => xid,
                    Some(XidError::Unknown) => 999,
                    None => continue,
                };
                let uuid = event.device.uuid().map_err(|error| error.to_string())?;
                let t_ms = session.start.elapsed().as_secs_f64() * 1e3;
                let event = XidEvent { t_ms, uuid, xid };
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
            Err(NvmlError::Timeout) if last => return Ok(()),
            Err(NvmlError::Timeout) => {}
            Err(error) => return Err(format!("waiting for xids: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bits: u64, expect: &[&str]) {
        assert_eq!(decode_throttle(bits), expect, "{bits:#x}");
    }

    #[test]
    fn throttle_bits_have_their_names_of_nvml_h() {
        check(0, &[]);
        check(0x1, &["gpu_idle"]);
        check(0x2, &["applications_clocks"]);
        check(0x4, &["sw_power_cap"]);
        check(0x8 | 0x80, &["hw_slowdown", "hw_power_brake"]);
        check(0x10, &["sync_boost"]);
        check(0x20 | 0x40, &["sw_thermal", "hw_thermal"]);
        check(0x100, &["display"]);
        check(0x204, &["sw_power_cap", "unknown"]);
        check(1 << 63, &["unknown"]);
    }

    #[test]
    fn decimation_keeps_the_first_and_the_span() {
        let sample = |t: u32| Sample {
            t_ms: f64::from(t),
            power_w: None,
            sm_clock_mhz: None,
            memory_clock_mhz: None,
            temperature_c: None,
            memory_temperature_c: None,
            utilization_percent: None,
            throttle: None,
            energy_j: None,
        };
        let mut samples: Vec<Sample> = (0..5).map(sample).collect();
        decimate(&mut samples);
        let times: Vec<f64> = samples.iter().map(|sample| sample.t_ms).collect();
        assert_eq!(times, [0.0, 2.0, 4.0]);
    }
}
