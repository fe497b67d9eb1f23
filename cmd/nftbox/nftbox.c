//go:build ignore

/*
 * nftbox is installed as <root>/bin/nft and runs the nft program that travels in
 * <root>/nft with its own libraries and dynamic loader, so that it needs neither
 * from the host: <root>/nft/ld.so --library-path <root>/nft <root>/nft/nft args
 */
#include <linux/fcntl.h>
#include <linux/limits.h>

#include "../include/sys.h"

static int length(const char *s)
{
	int n = 0;

	while (s[n])
		n++;
	return n;
}

static int starts(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return 0;
	return 1;
}

/* Writes a and b one after the other to to, which has room for them. */
static char *join(char *to, const char *a, const char *b)
{
	char *p = to;

	while (*a)
		*p++ = *a++;
	while (*b)
		*p++ = *b++;
	*p = 0;
	return to;
}

static void print(const char *s)
{
	syscall(write, 2, s, length(s), 0);
}

static int fail(const char *what, const char *path, long err)
{
	/* The number is made without a division, which 32-bit arm has none for. */
	static const int unit[] = {100, 10, 1};
	char number[] = "error 000";
	const char *why = number;
	int i;

	switch (-err) {
	case ENOENT:
		why = "no such file or directory";
		break;
	case EACCES:
		why = "permission denied";
		break;
	case ENOEXEC:
		why = "not a program of this architecture";
		break;
	case E2BIG:
		why = "too many arguments";
		break;
	default:
		for (i = 0; i < 3; i++)
			for (; -err >= unit[i]; err += unit[i])
				number[6 + i]++;
	}
	print("nft: ");
	print(what);
	print(path);
	print(": ");
	print(why);
	print("\n");
	return 127;
}

static void parent(char *path)
{
	int n = length(path);

	while (n > 0 && path[--n] != '/')
		;
	path[n] = 0;
}

static int program(int argc, char **argv, char **envp)
{
	static const char self[] = "/proc/self/exe";
	char root[PATH_MAX], loader[PATH_MAX + 64], box[PATH_MAX + 64],
		nft[PATH_MAX + 64], xtables[PATH_MAX + 64];
	long ret;
	int n = 0, envc = 0;

	ret = syscall(readlinkat, AT_FDCWD, self, root, sizeof(root) - 1);
	if (ret < 0)
		return fail("cannot find itself by ", self, ret);
	root[ret] = 0;
	parent(root);
	parent(root);

	while (envp[envc])
		envc++;
	char *args[argc + 8], *env[envc + 2];

	args[n++] = join(loader, root, "/nft/ld.so");
	args[n++] = "--inhibit-cache";
	args[n++] = "--library-path";
	args[n++] = join(box, root, "/nft");
	args[n++] = "--argv0";
	args[n++] = "nft";
	args[n++] = join(nft, root, "/nft/nft");
	while (argc > 0 && *++argv)
		args[n++] = *argv;
	args[n] = 0;

	/* What is meant for the host's loader and libraries is not for these. */
	n = 0;
	for (; *envp; envp++)
		if (!starts(*envp, "LD_") && !starts(*envp, "XTABLES_LIBDIR="))
			env[n++] = *envp;
	join(xtables, "XTABLES_LIBDIR=", box);
	env[n++] = xtables;
	env[n] = 0;

	return fail("cannot run ", loader, syscall(execve, loader, args, env, 0));
}
