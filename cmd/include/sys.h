/*
 * The little of a C library that a freestanding static program needs: an entry
 * point, raw system calls, and words for the errors that users meet. Numbers and
 * flags come from the kernel's own headers, so the three architectures
 * (x86_64, aarch64, arm EABI) differ only in this file.
 *
 * A program defines: int program(int argc, char **argv, char **envp)
 */
#ifndef KEDGE_SYS_H
#define KEDGE_SYS_H

#include <asm/errno.h>
#include <asm/unistd.h>

#if defined(__x86_64__)

__asm__(".text\n"
	".globl _start\n"
	".type _start, @function\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call start\n");

static inline long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return ret;
}

#elif defined(__aarch64__)

__asm__(".text\n"
	".globl _start\n"
	".type _start, %function\n"
	"_start:\n"
	"	mov x29, #0\n"
	"	mov x30, #0\n"
	"	mov x0, sp\n"
	"	b start\n");

static inline long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
			 : "memory");
	return x0;
}

#elif defined(__arm__) && defined(__ARM_EABI__)

#ifdef __thumb__
#error "build with -marm: r7 carries the system call's number"
#endif

__asm__(".text\n"
	".globl _start\n"
	".type _start, %function\n"
	"_start:\n"
	"	mov fp, #0\n"
	"	mov r0, sp\n"
	"	bic sp, sp, #7\n"
	"	bl start\n");

static inline long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long r7 __asm__("r7") = nr;
	register long r0 __asm__("r0") = a;
	register long r1 __asm__("r1") = b;
	register long r2 __asm__("r2") = c;
	register long r3 __asm__("r3") = d;
	register long r4 __asm__("r4") = e;

	__asm__ volatile("svc 0"
			 : "+r"(r0)
			 : "r"(r7), "r"(r1), "r"(r2), "r"(r3), "r"(r4)
			 : "memory");
	return r0;
}

#else
#error "no system calls for this architecture yet"
#endif

#define syscall(nr, a, b, c, d) \
	syscall5(__NR_##nr, (long)(a), (long)(b), (long)(c), (long)(d), 0)

__attribute__((noreturn)) static inline void quit(int code)
{
	for (;;)
		syscall(exit_group, code, 0, 0, 0);
}

static int program(int argc, char **argv, char **envp);

/* The kernel hands over argc, the arguments, NULL, the environment, NULL. */
__attribute__((used, noreturn)) void start(long *stack)
{
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1);

	quit(program(argc, argv, argv + argc + 1));
}

#endif
