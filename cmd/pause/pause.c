//go:build ignore

/*
 * pause holds a pod's namespaces open. It is the first process of the sandbox:
 * where the pod shares its process namespace it inherits the orphans of the
 * containers and reaps them. SIGINT and SIGTERM end it.
 */
#include <linux/signal.h>

#include "../include/sys.h"

/* The kernel's signal set: 64 bits, also where a long has 32. */
typedef unsigned long long sigset64;
#define BIT(sig) (1ULL << ((sig) - 1))

static void reap(void)
{
	while (syscall(wait4, -1, 0, 1 /* WNOHANG */, 0) > 0)
		;
}

static int program(int argc, char **argv, char **envp)
{
	/*
	 * The kernel drops a signal that PID 1 has no handler for, unless it is
	 * blocked: then it stays pending, to be waited for.
	 */
	sigset64 set = BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGCHLD);

	if (syscall(rt_sigprocmask, SIG_BLOCK, &set, 0, sizeof(set)) < 0)
		return 1;
	for (;;) {
		reap();
		switch (syscall(rt_sigtimedwait, &set, 0, 0, sizeof(set))) {
		case SIGINT:
		case SIGTERM:
			return 0;
		case SIGCHLD:
		case -EINTR:
			break;
		default:
			return 1;
		}
	}
}
