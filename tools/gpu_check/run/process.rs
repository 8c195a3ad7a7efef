//! A program that cannot outlive its time: it and whatever it started are ended together.

use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Between the request to end and the end by force.
const GRACE: Duration = Duration::from_secs(2);

/// Between two looks at the program.
const TICK: Duration = Duration::from_millis(20);

/// The exit status of a program that has nothing to do on this machine; the last line that it prints says why.
pub const NOTHING_TO_DO: u8 = 77;

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with status 0.
    Passed,
    /// By itself, saying that there was nothing it could do here.
    Skipped,
    /// By itself otherwise, or it did not start: in words.
    Failed(String),
    /// At its limit.
    Cut,
}

/// Runs `command` for at most `limit`, in a process group of its own that ends with it; calls `meanwhile` all the while.
pub fn run(command: &mut Command, limit: Duration, mut meanwhile: impl FnMut()) -> Ended {
    group(command);
    let start = Instant::now();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            let program = command.get_program().display();
            return Ended::Failed(format!("{program} does not start: {e}"));
        }
    };
    let mut asked = None;
    loop {
        match child.try_wait() {
            Ok(Some(_)) if asked.is_some() => {
                end(&child, true);
                return Ended::Cut;
            }
            Ok(Some(status)) => {
                // What it left running would disturb the next.
                end(&child, true);
                return judged(status);
            }
            Ok(None) => {}
            Err(e) => return Ended::Failed(format!("waiting for it failed: {e}")),
        }
        match asked {
            None if start.elapsed() >= limit => {
                asked = Some(Instant::now());
                end(&child, false);
            }
            Some(since) if since.elapsed() >= GRACE => {
                end(&child, true);
                // A process that hangs in the driver may not even be killed; nobody waits for it.
                std::thread::sleep(TICK);
                let _ = child.try_wait();
                return Ended::Cut;
            }
            _ => {}
        }
        meanwhile();
        std::thread::sleep(TICK);
    }
}

fn judged(status: ExitStatus) -> Ended {
    match status.code() {
        Some(0) => Ended::Passed,
        Some(code) if code == i32::from(NOTHING_TO_DO) => Ended::Skipped,
        _ => Ended::Failed(status.to_string()),
    }
}

#[cfg(unix)]
fn group(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec the closure makes one system call, which neither allocates nor locks.
    unsafe {
        command.pre_exec(|| {
            // If the driver is killed, its step goes with it.
            let kill = Some(rustix::process::Signal::KILL);
            rustix::process::set_parent_process_death_signal(kill).map_err(Into::into)
        });
    }
}

#[cfg(unix)]
fn end(child: &Child, by_force: bool) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let signal = if by_force { Signal::KILL } else { Signal::TERM };
    if let Some(group) = Pid::from_raw(child.id() as i32) {
        // It may be empty already.
        let _ = kill_process_group(group, signal);
    }
}

#[cfg(not(unix))]
fn group(_: &mut Command) {}

#[cfg(not(unix))]
fn end(child: &Child, _: bool) {
    let kill = Command::new("taskkill")
        .args(["/T", "/F", "/PID", &child.id().to_string()])
        .status();
    drop(kill);
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn programs_end_by_themselves_or_are_named() {
        let second = Duration::from_secs(20);
        assert_eq!(run(&mut shell("exit 0"), second, || ()), Ended::Passed);
        assert_eq!(run(&mut shell("exit 77"), second, || ()), Ended::Skipped);
        let failed = run(&mut shell("exit 3"), second, || ());
        assert!(
            matches!(&failed, Ended::Failed(why) if why.contains('3')),
            "{failed:?}"
        );
        let missing = run(&mut Command::new("/no/such/program"), second, || ());
        assert!(
            matches!(&missing, Ended::Failed(why) if why.contains("/no/such/program")),
            "{missing:?}"
        );
    }

    #[test]
    fn a_program_is_cut_with_its_children_even_if_it_will_not_listen() {
        let folder = tempfile::tempdir().unwrap();
        let alive = folder.path().join("alive");
        let script = format!(
            "trap '' TERM; (trap '' TERM; sleep 5; touch {0}) & sleep 5; touch {0}",
            alive.display()
        );
        let start = Instant::now();
        let mut looks = 0;
        let ended = run(&mut shell(&script), Duration::from_millis(300), || {
            looks += 1
        });
        assert_eq!(ended, Ended::Cut);
        assert!(looks > 0);
        assert!(
            start.elapsed() < Duration::from_millis(4500),
            "{:?}",
            start.elapsed()
        );
        std::thread::sleep(Duration::from_secs(6).saturating_sub(start.elapsed()));
        assert!(!alive.exists(), "a child lived on");
    }
}
