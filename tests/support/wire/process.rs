//! Counts what this process holds, from `/proc` on Linux and by the API of Windows (always 0 on other
//! systems), and suspends processes.

#[allow(unused_imports, reason = "each test uses a part of it")]
pub use system::{listening_ports, peak_memory, sockets, stop, threads, IDLE_SOCKETS};

#[cfg(windows)]
pub use system::go_on;

#[cfg(unix)]
pub fn go_on(pid: u32) -> bool {
    signal("CONT", pid)
}

#[cfg(unix)]
fn signal(name: &str, pid: u32) -> bool {
    let mut shell = std::process::Command::new("sh");
    let shell = shell.args(["-c", &format!("kill -{name} {pid} 2>/dev/null")]);
    shell.status().unwrap().success()
}

#[cfg(target_os = "linux")]
mod system {
    use std::collections::HashSet;
    use std::fs;
    use std::io::{BufRead as _, BufReader};
    use std::time::Instant;

    use crate::wire::PATIENCE;

    /// The number of sockets of an idle connection.
    pub const IDLE_SOCKETS: usize = 1;

    pub fn threads() -> usize {
        fs::read_dir("/proc/self/task").unwrap().count()
    }

    /// The number of open sockets.
    pub fn sockets() -> usize {
        inodes().len()
    }

    fn inodes() -> HashSet<String> {
        let files = fs::read_dir("/proc/self/fd").unwrap();
        let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let names = links.map(|link| link.to_string_lossy().into_owned());
        names.filter_map(|name| Some(name.strip_prefix("socket:[")?.replace(']', ""))).collect()
    }

    /// The ports of 127.0.0.1 on which this process listens.
    pub fn listening_ports() -> Vec<u16> {
        const LISTEN: &str = "0A";
        let file = fs::File::open("/proc/net/tcp").unwrap();
        let lines = BufReader::new(file).lines().skip(1).map(Result::unwrap);
        let rows = lines.map(|row| row.split_whitespace().map(str::to_owned).collect());
        // The listening sockets are first. Thousands of others may follow.
        let rows = rows.take_while(|row: &Vec<_>| row[3] == LISTEN);
        let own = inodes();
        rows.filter_map(|row| {
            let port = row[1].strip_prefix("0100007F:")?;
            let port = u16::from_str_radix(port, 16).unwrap();
            own.contains(&row[9]).then_some(port)
        })
        .collect()
    }

    /// The most memory that this process holds during `run`, in KiB. Pages of files, such as code, do
    /// not count: the system reads many of them at once.
    pub fn peak_memory(run: impl FnOnce()) -> usize {
        fs::write("/proc/self/clear_refs", "5").unwrap();
        run();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let number = |name| {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number.unwrap().parse::<usize>().unwrap()
        };
        number("VmHWM:") - number("RssFile:")
    }

    /// Suspends this process. `false` if it has ended.
    pub fn stop(pid: u32) -> bool {
        let start = Instant::now();
        super::signal("STOP", pid)
            && loop {
                let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let (_, rest) = line.rsplit_once(") ").unwrap_or_default();
                match rest.chars().next() {
                    Some('T') => break true,
                    None | Some('Z' | 'X') => break false,
                    Some(_) => std::thread::yield_now(),
                }
                assert!(start.elapsed() < PATIENCE, "the process does not stop");
            }
    }
}

#[cfg(windows)]
#[allow(unsafe_code, reason = "the standard library has no such counts")]
mod system {
    use std::mem::{size_of, zeroed};
    use std::process;

    use windows_sys::Win32::Foundation::{
        CloseHandle, ERROR_INSUFFICIENT_BUFFER, ERROR_OUTOFMEMORY, HANDLE, NO_ERROR,
    };
    use windows_sys::Win32::NetworkManagement::IpHelper::{
        GetExtendedTcpTable, MIB_TCPROW_OWNER_PID, MIB_TCPTABLE_OWNER_PID,
        MIB_TCP_STATE_CLOSE_WAIT, MIB_TCP_STATE_ESTAB, MIB_TCP_STATE_SYN_SENT, TCP_TABLE_CLASS,
        TCP_TABLE_OWNER_PID_CONNECTIONS, TCP_TABLE_OWNER_PID_LISTENER,
    };
    use windows_sys::Win32::Networking::WinSock::AF_INET;
    use windows_sys::Win32::System::Diagnostics::ToolHelp::{
        CreateToolhelp32Snapshot, Thread32First, Thread32Next, TH32CS_SNAPTHREAD, THREADENTRY32,
    };
    use windows_sys::Win32::System::ProcessStatus::{
        K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS,
    };
    use windows_sys::Win32::System::Threading::{
        GetCurrentProcess, OpenThread, ResumeThread, SuspendThread, THREAD_SUSPEND_RESUME,
    };

    pub const IDLE_SOCKETS: usize = 1;

    pub fn threads() -> usize {
        threads_of(process::id()).len()
    }

    fn threads_of(pid: u32) -> Vec<u32> {
        let size = u32::try_from(size_of::<THREADENTRY32>()).unwrap();
        let mut threads = Vec::new();
        // SAFETY: the entry has its size, and the handle is that of a snapshot until it is closed.
        unsafe {
            let snapshot = CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0);
            let mut entry = THREADENTRY32 { dwSize: size, ..zeroed() };
            let mut is_there = Thread32First(snapshot, &raw mut entry);
            while is_there != 0 {
                if entry.th32OwnerProcessID == pid {
                    threads.push(entry.th32ThreadID);
                }
                is_there = Thread32Next(snapshot, &raw mut entry);
            }
            CloseHandle(snapshot);
        }
        threads
    }

    /// Suspends this process. `false` if it has ended.
    pub fn stop(pid: u32) -> bool {
        with_each_thread(pid, SuspendThread)
    }

    pub fn go_on(pid: u32) -> bool {
        with_each_thread(pid, ResumeThread)
    }

    fn with_each_thread(pid: u32, call: unsafe extern "system" fn(HANDLE) -> u32) -> bool {
        let threads = threads_of(pid);
        for thread in &threads {
            // SAFETY: the handle is that of a thread, or null, which the calls refuse.
            unsafe {
                let thread = OpenThread(THREAD_SUSPEND_RESUME, 0, *thread);
                call(thread);
                CloseHandle(thread);
            }
        }
        !threads.is_empty()
    }

    /// The number of TCP sockets that connect or are connected. The system lists closed ones for a
    /// while.
    pub fn sockets() -> usize {
        let held = [MIB_TCP_STATE_SYN_SENT, MIB_TCP_STATE_ESTAB, MIB_TCP_STATE_CLOSE_WAIT];
        let rows = tcp_rows(TCP_TABLE_OWNER_PID_CONNECTIONS).into_iter();
        let rows = rows.filter(|row| held.contains(&i32::try_from(row.dwState).unwrap()));
        rows.filter(|row| row.dwOwningPid == process::id()).count()
    }

    /// The ports of 127.0.0.1 on which this process or an unknown one listens: wine does not know
    /// the process of a listener.
    pub fn listening_ports() -> Vec<u16> {
        let rows = tcp_rows(TCP_TABLE_OWNER_PID_LISTENER).into_iter().filter(|row| {
            row.dwLocalAddr.to_ne_bytes() == [127, 0, 0, 1]
                && [process::id(), 0].contains(&row.dwOwningPid)
        });
        // The lower half has the port in network byte order.
        rows.map(|row| (row.dwLocalPort as u16).swap_bytes()).collect()
    }

    /// The IPv4 connections or listeners of all processes.
    fn tcp_rows(which: TCP_TABLE_CLASS) -> Vec<MIB_TCPROW_OWNER_PID> {
        let mut size = 0;
        // `u32` for the alignment of the rows.
        let mut table: Vec<u32> = Vec::new();
        loop {
            // SAFETY: the table has as many bytes as `size` says.
            let result = unsafe {
                let (begin, family) = (table.as_mut_ptr().cast(), u32::from(AF_INET));
                GetExtendedTcpTable(begin, &raw mut size, 0, family, which, 0)
            };
            match result {
                NO_ERROR => break,
                // Connections may be added before the next attempt. Then wine reports this error.
                ERROR_INSUFFICIENT_BUFFER | ERROR_OUTOFMEMORY => size += 4096,
                error => panic!("the system does not list its connections: {error}"),
            }
            table.resize(size as usize / 4, 0);
        }
        // SAFETY: the table begins with the number of its rows, and holds all of them.
        let rows = unsafe {
            let table = table.as_ptr().cast::<MIB_TCPTABLE_OWNER_PID>();
            let first = (&raw const (*table).table).cast::<MIB_TCPROW_OWNER_PID>();
            std::slice::from_raw_parts(first, (*table).dwNumEntries as usize)
        };
        rows.to_vec()
    }

    /// The most memory that this process has held so far, in KiB.
    pub fn peak_memory(run: impl FnOnce()) -> usize {
        run();
        let size = size_of::<PROCESS_MEMORY_COUNTERS>();
        // SAFETY: the counters have this size.
        let counters = unsafe {
            let mut counters: PROCESS_MEMORY_COUNTERS = zeroed();
            let size = u32::try_from(size).unwrap();
            assert_ne!(K32GetProcessMemoryInfo(GetCurrentProcess(), &raw mut counters, size), 0);
            counters
        };
        counters.PeakWorkingSetSize / 1024
    }
}

#[cfg(not(any(target_os = "linux", windows)))]
mod system {
    pub const IDLE_SOCKETS: usize = 0;

    pub fn threads() -> usize {
        0
    }

    pub fn sockets() -> usize {
        0
    }

    pub fn listening_ports() -> Vec<u16> {
        Vec::new()
    }

    pub fn peak_memory(run: impl FnOnce()) -> usize {
        run();
        0
    }

    #[cfg(unix)]
    pub fn stop(pid: u32) -> bool {
        super::signal("STOP", pid)
    }
}
