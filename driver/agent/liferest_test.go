// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestForcedRestLetsWhoIsInsideGoOn: it waits for them to leave, so they do not wait
// for it.
func TestForcedRestLetsWhoIsInsideGoOn(t *testing.T) {
	l, _, freezer := newFakeLife()
	leave, err := l.use("request")
	if err != nil {
		t.Fatal(err)
	}
	evicted := make(chan struct{})
	l.evict = func() { close(evicted) }
	saved := make(chan error, 1)
	go func() {
		saved <- l.rest(context.Background(), forced, func(context.Context) error {
			if !freezer.frozen {
				t.Error("the session is saved while its processes run")
			}
			return nil
		})
	}()
	<-evicted
	if !l.resting() {
		t.Error("who is inside does not see that it has to leave")
	}
	more, err := l.useMore("execution")
	if err != nil || l.touch() != nil {
		t.Fatalf("who is inside goes on: %v", err)
	}
	late := make(chan error, 1)
	go func() {
		_, err := l.use("late")
		late <- err
	}()
	leave()
	select {
	case <-saved:
		t.Fatal("it does not wait for who is inside")
	case <-time.After(20 * time.Millisecond): // it has nothing to tell while it waits
	}
	begin := time.Now()
	more()
	if err := <-saved; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > leavePatience/2 {
		t.Errorf("it took %v after the last had left", took)
	}
	if err := <-late; !errors.Is(err, errAsleep) {
		t.Errorf("who came late: %v", err)
	}
}

// TestRestAfterAnAnswer: who has used the session and asks for it to rest at once is
// not told that it is in use, by itself.
func TestRestAfterAnAnswer(t *testing.T) {
	for name, rest := range map[string]func(*life) error{
		"idle": (*life).idleNow,
		"deep sleep": func(l *life) error {
			return l.rest(context.Background(), asked, func(context.Context) error { return nil })
		},
	} {
		l, _, _ := newFakeLife()
		leave, err := l.use("request")
		if err != nil {
			t.Fatal(err)
		}
		if err := rest(l); !errors.Is(err, errBusy) {
			t.Errorf("%s of a session in use: %v", name, err)
		}
		time.AfterFunc(answerPatience/10, leave)
		if err := rest(l); err != nil {
			t.Errorf("%s after an answer: %v", name, err)
		}
	}
}

// TestLeave: who has left is gone, whatever was under way.
func TestLeave(t *testing.T) {
	for name, during := range map[string]func(l *life, f *fakeFreezer) error{
		"a wake": func(l *life, _ *fakeFreezer) error {
			if err := l.idleNow(); err != nil {
				return err
			}
			l.returning = func() error { l.leave(); return nil }
			_, err := l.use("request")
			return err
		},
		"a sleep that fails": func(l *life, _ *fakeFreezer) error {
			return l.rest(t.Context(), asked, func(ctx context.Context) error { l.leave(); return errors.New("no store") })
		},
		"a sleep that works": func(l *life, _ *fakeFreezer) error {
			return l.rest(t.Context(), asked, func(context.Context) error { l.leave(); return nil })
		},
		"a sleep by itself": func(l *life, _ *fakeFreezer) error {
			if err := l.idleNow(); err != nil {
				return err
			}
			return l.rest(t.Context(), bySelf, func(ctx context.Context) error {
				l.leave()
				<-ctx.Done() // ends at once
				return ctx.Err()
			})
		},
		"a freeze": func(l *life, _ *fakeFreezer) error {
			l.leaving = l.leave
			return l.idleNow()
		},
		"a freeze that fails": func(l *life, f *fakeFreezer) error {
			l.leaving, f.fail = l.leave, errors.New("busy")
			return l.idleNow()
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, clock, f := newFakeLife()
			if err := during(l, f); !errors.Is(err, errAsleep) {
				t.Errorf("it ends with %v", err)
			}
			clock.pass(48 * time.Hour)
			if _, err := l.use("request"); !errors.Is(err, errAsleep) || !l.gone() {
				t.Errorf("who comes after: %v, gone %t", err, l.gone())
			}
		})
	}
}
