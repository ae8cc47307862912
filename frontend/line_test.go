// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// inLine is a line with a stock of slots.
type inLine struct {
	*line
	mu    sync.Mutex
	stock map[Shape]int
	order []string // who had a turn
	slots int
}

func newInLine(starts int) *inLine {
	l := &inLine{stock: map[Shape]int{}}
	l.line = newLine(starts, func(shape Shape) *Slot {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.stock[shape] == 0 {
			return nil
		}
		l.stock[shape]--
		return &Slot{Shape: shape}
	})
	return l
}

// come has somebody wait, who keeps a turn to start a job for d.
func (l *inLine) come(t *testing.T, ctx context.Context, account string, shape Shape, d time.Duration) {
	go func() {
		slot, done, err := l.wait(ctx, account, shape)
		if err != nil {
			t.Errorf("%s: %v", account, err)
			return
		}
		l.mu.Lock()
		l.order = append(l.order, account)
		if slot != nil {
			l.slots++
		}
		l.mu.Unlock()
		if slot == nil {
			time.Sleep(d)
		}
		done()
	}()
	synctest.Wait() // they come one after another
}

// turns are those that had one, in their order.
func (l *inLine) turns() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.order)
}

func (l *inLine) fill(shape Shape, n int) {
	l.mu.Lock()
	l.stock[shape] += n
	l.mu.Unlock()
	l.serve()
	synctest.Wait()
}

// TestLineFair: an account that comes with many does not make another wait for all of
// them, and no more start at a time than may.
func TestLineFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newInLine(2)
		shape := Shape{Memory: 1}
		for range 8 {
			l.come(t, t.Context(), "many", shape, time.Second)
		}
		l.come(t, t.Context(), "few", shape, time.Second)
		l.come(t, t.Context(), "few", shape, time.Second)
		if len(l.turns()) != 2 || l.length() != 8 {
			t.Fatalf("turns %v, %d in line", l.turns(), l.length())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if want := []string{"few", "many", "many", "many"}; !slices.Equal(slices.Sorted(slices.Values(l.turns())), want) {
			t.Errorf("turns %v, want %v", l.turns(), want)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := l.turns(); len(got) != 6 || count(got, "few") != 2 {
			t.Errorf("turns %v", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(l.turns()) != 10 || l.length() != 0 || l.free != 2 || len(l.waiting) != 0 {
			t.Errorf("in the end: turns %v, %d in line, %d free", l.turns(), l.length(), l.free)
		}
	})
}

func count(list []string, what string) (n int) {
	for _, s := range list {
		if s == what {
			n++
		}
	}
	return n
}

// TestLineSlots: slots that come serve those that wait, also behind somebody whom they
// do not fit, and in turn between accounts.
func TestLineSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newInLine(0)
		small, big := Shape{Memory: 1}, Shape{Memory: 2}
		l.come(t, t.Context(), "a", big, 0)
		l.come(t, t.Context(), "a", small, 0)
		l.come(t, t.Context(), "a", small, 0)
		l.come(t, t.Context(), "b", small, 0)
		l.fill(small, 2)
		if !slices.Equal(slices.Sorted(slices.Values(l.turns())), []string{"a", "b"}) {
			t.Errorf("turns %v", l.turns())
		}
		l.fill(big, 1)
		l.fill(small, 1)
		if len(l.turns()) != 4 || l.slots != 4 || l.length() != 0 {
			t.Errorf("turns %v, %d slots", l.turns(), l.slots)
		}
	})
}

// TestLineLeft: who goes away takes nothing along.
func TestLineLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newInLine(1)
		shape := Shape{Memory: 1}
		l.come(t, t.Context(), "a", shape, time.Second)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errors.New("enough"))
		defer cancel()
		if _, _, err := l.wait(ctx, "a", shape); err == nil || err.Error() != "enough" {
			t.Errorf("got %v", err)
		}
		l.come(t, t.Context(), "b", shape, time.Second)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(l.turns()) != 2 || l.length() != 0 || l.free != 1 {
			t.Errorf("turns %v, %d in line, %d free", l.turns(), l.length(), l.free)
		}
	})
}
