//! The built-in profile: Docker's rules about which system calls a container may make.
//!
//! What is not here fails with EPERM. What needs a capability is here with the capability: a
//! container that has it (`--cap-add`) may make the call.

use super::{Action, Architecture, Condition, Operator, Profile, Rule};
use crate::capabilities::CapabilitySet;

/// Flags of `clone` that make a new namespace: `CLONE_NEWNS`, UTS, IPC, USER, PID, NET, CGROUP.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Allowed for everybody.
const ALWAYS: &[&str] = &[
    // Files by path.
    "access chdir chmod chown chown32 creat faccessat faccessat2 fchmodat fchmodat2 fchownat
     futimesat lchown lchown32 link linkat mkdir mkdirat mknod mknodat name_to_handle_at newfstatat
     open openat openat2 readlink readlinkat rename renameat renameat2 rmdir stat stat64 statfs
     statfs64 statmount listmount statx lstat lstat64 symlink symlinkat truncate truncate64 umask
     unlink unlinkat utime utimensat utimensat_time64 utimes fstatat64 getcwd",
    // Extended attributes.
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr
     listxattrat llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // Open files.
    "close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fchdir fchmod
     fchown fchown32 fcntl fcntl64 fdatasync flock fstat fstat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
     getdents getdents64 ioctl _llseek lseek pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev
     pwritev2 read readahead readv sendfile sendfile64 splice sync sync_file_range syncfs tee
     vmsplice write writev cachestat",
    // Waiting for several things.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
     epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1
     inotify_rm_watch _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd
     signalfd4",
    // Asynchronous input and output, the older kind; io_uring is left out.
    "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
     ioprio_get ioprio_set",
    // Memory.
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall
     mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
     pkey_mprotect process_mrelease remap_file_pages",
    // Processes and threads; clone has a rule of its own.
    "execve execveat exit exit_group fork vfork wait4 waitid waitpid getpid getppid gettid getpgid
     getpgrp getsid setpgid setsid set_tid_address get_robust_list set_robust_list get_thread_area
     set_thread_area rseq prctl pidfd_open pidfd_send_signal seccomp landlock_add_rule
     landlock_create_ruleset landlock_restrict_self restart_syscall uretprobe riscv_hwprobe",
    // Locks.
    "futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake",
    // Signals.
    "kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
     rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn
     tgkill tkill",
    // Time. Reading and slewing the clock; adjtimex checks for the capability itself.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
     clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep
     setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
     timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
     timerfd_settime64 times",
    // Scheduling and limits.
    "getcpu getpriority getrlimit getrusage prlimit64 sched_getaffinity sched_getattr sched_getparam
     sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
     sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
     sched_yield setpriority setrlimit ugetrlimit sysinfo uname getrandom",
    // Users, groups and capabilities: the kernel checks who may become whom.
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
     getresgid getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid
     setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32
     setresuid setresuid32 setreuid setreuid32 setuid setuid32",
    // Sockets; socket has a rule of its own.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
     recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // System V and POSIX message queues, semaphores, shared memory.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
     mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
     semtimedop_time64 shmat shmctl shmdt shmget",
    // Looking at and tracing one's own processes: safe since Linux 4.8, older than any we run on.
    "process_vm_readv process_vm_writev ptrace",
];

/// Allowed with any one of the capabilities.
const WITH_CAPABILITY: &[(&str, &str)] = &[
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
         umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

/// Allowed on some architectures.
const WITH_ARCHITECTURE: &[(&[Architecture], &str)] = &[
    (&[Architecture::X86_64], "arch_prctl modify_ldt"),
    (
        &[Architecture::Aarch64],
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
];

/// Personalities a program may ask for: Linux, 32 bit, address space without randomisation, both,
/// and the question which one it has.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Socket families 38 (`AF_ALG`: the kernel's cryptography, CVE-2026-31431) and 40 (`AF_VSOCK`: the
/// hypervisor) are refused.
const FAMILIES: [(Operator, u64); 3] =
    [(Operator::Less, 38), (Operator::Equal, 39), (Operator::Greater, 40)];

/// The profile for a container with these capabilities.
pub(super) fn profile(capabilities: CapabilitySet, native: Architecture) -> Profile {
    let mut rules = vec![Rule::allow(ALWAYS.iter().copied().flat_map(str::split_ascii_whitespace))];
    for (capability, names) in WITH_CAPABILITY {
        if capabilities.contains(capability) {
            rules.push(Rule::allow(names.split_ascii_whitespace()));
        }
    }
    for (architectures, names) in WITH_ARCHITECTURE {
        if architectures.contains(&native) {
            rules.push(Rule::allow(names.split_ascii_whitespace()));
        }
    }
    for value in PERSONALITIES {
        rules.push(when("personality", Condition::new(0, Operator::Equal, value)));
    }
    for (operator, family) in FAMILIES {
        rules.push(when("socket", Condition::new(0, operator, family)));
    }
    if !capabilities.contains("SYS_ADMIN") {
        let same = Condition { index: 0, operator: Operator::Masked(NEW_NAMESPACES), value: 0 };
        rules.push(when("clone", same));
        // Its flags are behind a pointer, where no filter can look: libc falls back to clone.
        rules.push(Rule {
            names: vec!["clone3".to_owned()],
            action: Action::Errno(libc::ENOSYS.unsigned_abs()),
            conditions: Vec::new(),
        });
    }
    Profile {
        default_action: Action::Errno(libc::EPERM.unsigned_abs()),
        architectures: native.with_older().to_vec(),
        rules,
    }
}

fn when(name: &str, condition: Condition) -> Rule {
    Rule { conditions: vec![condition], ..Rule::allow([name]) }
}
