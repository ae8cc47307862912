// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package seccomp makes the filter that decides which system calls of the
// kernel the code in a sandbox reaches. It is made once, on the host; a
// sandbox's processes install it on themselves before they become a program.
//
// The filter is an allow list in the manner of the container engines' default,
// less what neither Bun nor the tools of the root file system need. It answers
// with an error and never kills: Bun, killed for a probe of a feature, dies with
// no word of use to anybody.
//
// Known calls that are refused answer EPERM. What the list does not know answers
// ENOSYS, as a kernel without it would, and programs fall back: clone3, whose
// flags a filter cannot see, to clone; a new way to open files to the old one.
package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Program returns the filter as the kernel takes it: an array of struct
// sock_filter, 8 bytes each, in this machine's byte order.
func Program() ([]byte, error) {
	instructions, err := assemble()
	if err != nil {
		return nil, fmt.Errorf("assemble seccomp filter: %w", err)
	}
	raw, err := bpf.Assemble(instructions)
	if err != nil {
		return nil, fmt.Errorf("assemble seccomp filter: %w", err)
	}
	program := make([]byte, 0, 8*len(raw))
	for _, i := range raw {
		program = binary.NativeEndian.AppendUint16(program, i.Op)
		program = append(program, i.Jt, i.Jf)
		program = binary.NativeEndian.AppendUint32(program, i.K)
	}
	return program, nil
}

// What the filter answers.
var (
	allow        = answer(unix.SECCOMP_RET_ALLOW)
	noPermission = refuse(unix.EPERM)
	noSuchCall   = refuse(unix.ENOSYS)
	noSuchFamily = refuse(unix.EAFNOSUPPORT)
)

func answer(value uint32) bpf.Instruction { return bpf.RetConstant{Val: value} }

func refuse(e unix.Errno) bpf.Instruction { return answer(unix.SECCOMP_RET_ERRNO | uint32(e)) }

// assemble makes the program: a search for the call's number among runs of
// numbers that are treated alike. For a call that needs no look at its arguments
// that costs nothing when it is made, as the kernel keeps a bitmap of those since
// Linux 5.11, but it does when the filter is installed: the kernel then goes
// through it once for each call that it has.
func assemble() ([]bpf.Instruction, error) {
	runs, err := plan()
	if err != nil {
		return nil, err
	}
	return append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: architecture, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(arch.X86_64.ID), SkipTrue: 1},
		noSuchCall, // such as i386's by int 0x80
		bpf.LoadAbsolute{Off: number, Size: 4},
	}, find(runs)...), nil
}

// run is what is done with calls from first up to the next run's first. Every
// way through its block ends in an answer.
type run struct {
	first uint32
	block []bpf.Instruction
}

// plan sorts all numbers into runs, the first at 0. What is in no list, other
// ABIs' numbers included, is no such call.
func plan() ([]run, error) {
	blocks := make(map[uint32][]bpf.Instruction)
	add := func(name string, block ...bpf.Instruction) error {
		nr, ok := arch.X86_64.SyscallNames[name]
		if !ok {
			return fmt.Errorf("no system call %q", name)
		}
		if blocks[uint32(nr)] != nil {
			return fmt.Errorf("system call %s is in two lists", name)
		}
		blocks[uint32(nr)] = block
		return nil
	}
	var errs []error
	for _, c := range conditional {
		errs = append(errs, add(c.name, c.assemble()...))
	}
	for _, name := range allowed {
		errs = append(errs, add(name, allow))
	}
	for _, name := range refused {
		errs = append(errs, add(name, noPermission))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	unknown := []bpf.Instruction{noSuchCall}
	runs := []run{{0, unknown}}
	put := func(first uint32, block []bpf.Instruction) {
		switch last := &runs[len(runs)-1]; {
		case last.first == first:
			last.block = block
		case !slices.Equal(last.block, block):
			runs = append(runs, run{first, block})
		}
	}
	for _, nr := range slices.Sorted(maps.Keys(blocks)) {
		put(nr, blocks[nr])
		if blocks[nr+1] == nil {
			put(nr+1, unknown)
		}
	}
	return runs, nil
}

// find makes the search of a number among runs.
func find(runs []run) []bpf.Instruction {
	if len(runs) == 1 {
		return runs[0].block
	}
	half := len(runs) / 2
	before, after := find(runs[:half]), find(runs[half:])
	tree := []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: runs[half].first, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(before))}, // farther than a condition can jump
	}
	if len(before) < 255 {
		tree = []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: runs[half].first, SkipTrue: uint8(len(before))}}
	}
	return slices.Concat(tree, before, after)
}

// Where things are in struct seccomp_data, little-endian.
const (
	number       = 0
	architecture = 4
	arguments    = 16
)

// conditions are what one call may be used for: it passes if all checks of any
// of the cases hold, and answers otherwise if not.
type conditions struct {
	name      string
	cases     [][]check
	otherwise bpf.Instruction
}

// check holds if an argument has none of the bits of none, and is from least to
// most. All 64 bits are compared, of which the kernel ignores the upper half
// where it takes an int: what has bits there is not what it seems (CVE-2019-7303).
type check struct {
	argument    uint32
	none        uint64
	least, most uint64
}

func is(argument uint32, value uint64) check { return between(argument, value, value) }

func between(argument uint32, least, most uint64) check {
	return check{argument: argument, least: least, most: most}
}

func without(argument uint32, bits uint64) check {
	return check{argument: argument, none: bits, most: ^uint64(0)}
}

// assemble makes a block of which every way through ends in an answer: the
// number of the call is gone with the first load.
func (c conditions) assemble() []bpf.Instruction {
	var block []bpf.Instruction
	for _, checks := range c.cases {
		var body []bpf.Instruction
		for _, check := range slices.Backward(checks) {
			if body == nil {
				body = []bpf.Instruction{allow}
			}
			body = append(check.assemble(len(body)), body...)
		}
		block = append(block, body...)
	}
	return append(block, c.otherwise)
}

// assemble makes what falls through if the check holds, and passes over the rest
// of the case, so many instructions, if not.
func (c check) assemble(rest int) []bpf.Instruction {
	low := bpf.LoadAbsolute{Off: arguments + 8*c.argument, Size: 4}
	high := bpf.LoadAbsolute{Off: low.Off + 4, Size: 4}
	hi := func(v uint64) uint32 { return uint32(v >> 32) }
	lo := func(v uint64) uint32 { return uint32(v) }
	unless := func(cond bpf.JumpTest, v uint32) bpf.Instruction {
		return bpf.JumpIf{Cond: cond, Val: v, SkipTrue: fails}
	}
	var block []bpf.Instruction
	if c.least == c.most {
		block = []bpf.Instruction{
			high, unless(bpf.JumpNotEqual, hi(c.least)),
			low, unless(bpf.JumpNotEqual, lo(c.least)),
		}
	} else {
		block = []bpf.Instruction{
			high,
			unless(bpf.JumpBitsSet, hi(c.none)),
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: hi(c.least), SkipTrue: 3},
			unless(bpf.JumpNotEqual, hi(c.least)),
			low,
			unless(bpf.JumpLessThan, lo(c.least)),
			high,
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: hi(c.most), SkipTrue: 3},
			unless(bpf.JumpNotEqual, hi(c.most)),
			low,
			unless(bpf.JumpGreaterThan, lo(c.most)),
			low,
			unless(bpf.JumpBitsSet, lo(c.none)),
		}
	}
	for i, instruction := range block {
		if jump, ok := instruction.(bpf.JumpIf); ok && jump.SkipTrue == fails {
			jump.SkipTrue = uint8(len(block) - 1 - i + rest)
			block[i] = jump
		}
	}
	return block
}

// fails stands for the way past the rest of a case until it is known. No jump
// within a check is as long.
const fails = 255
