;;; talaria.el --- Grey text from a local diffusion model -*- lexical-binding: t; -*-

;; Author: The Talaria developers
;; Version: 0.1.0
;; Package-Requires: ((emacs "29.1"))
;; Keywords: convenience, languages, tools
;; SPDX-License-Identifier: Apache-2.0

;;; Commentary:

;; Shows what Talaria's language server offers as grey text behind the cursor, takes all, a word
;; or a line of it, and has functions and selections written by the server.  The connection is
;; lsp-mode's (see talaria-lsp.el) or Eglot's (see talaria-eglot.el):
;;
;;   (require 'talaria-lsp)      ; and (add-hook 'python-base-mode-hook #'lsp-deferred)
;;   (add-hook 'python-base-mode-hook #'talaria-eglot)      ; the other way
;;
;; What is typed along needs no answer from the server; what does not fit, goes.

;;; Code:

(require 'cl-lib)
(require 'subr-x)

(defgroup talaria nil
  "Grey text from a local diffusion model."
  :group 'convenience
  :prefix "talaria-")

(defcustom talaria-server-command nil
  "The command that starts the server, a list of texts.
By itself it is `talaria lsp'.  The program is looked for on the variable
`exec-path', in the folder .venv of the clone that this package is in,
and, if you agree, in that of the project."
  :type '(choice (const :tag "Find it" nil) (repeat string))
  :risky t)

(defconst talaria--options
  '((enabled boolean "offer anything at all")
    (languages (repeat string) "in which suggestions come by themselves")
    (exclude (repeat string) "patterns of files that are never read")
    (model string "a model's folder or name")
    (device string "cpu, cuda or mps")
    (mode (choice (const "diffuse") (const "verify") (const "ar")) "how middles are generated")
    (confidence_threshold number "confidence from which a token is committed")
    (until (choice (const "line") (const "statement") (const "block"))
           "where suggestions end at the latest")
    (max_tokens natnum "longest suggestion while typing")
    (candidates natnum "suggestions to choose from")
    (least_confidence number "less likely ones do not come by themselves")
    (deadline_ms natnum "what is there then is offered")
    (fill_deadline_ms natnum "the same for functions and regions")
    (debounce_ms natnum "wait so long after each key")
    (strings boolean "suggestions in strings")
    (comments boolean "suggestions in comments")
    (related_files boolean "let the model see other files")
    (completion boolean "offer them in lists of completions, too")
    (usage boolean "count what is accepted, here alone")
    (endpoint string "URL of a service that is asked first")
    (endpoint_model string "the model that it shall use")
    (endpoint_key_variable string "environment variable with its key")
    (endpoint_timeout_ms natnum "how long it may take"))
  "The options that can be customised: name, type, what it is.")

(defcustom talaria-options nil
  "Options of the server, pairs of a name and a value.
What is not given is left to the server, and so is what is nil where a
text or a number belongs.  `talaria lsp --help' lists them all.  They are
taken over when the server starts."
  :type `(set ,@(mapcar (pcase-lambda (`(,name ,type ,what))
                          `(cons :tag ,(format "%s: %s" name what)
                                 :format "%t: %v"
                                 (const :format "" ,name) ,type))
                        talaria--options))
  ;; A project's own settings must not send texts elsewhere.
  :risky t)

(defcustom talaria-delay 0.03
  "Seconds after a key until the server is asked, which may wait longer."
  :type 'number)

(defface talaria-ghost '((t :inherit shadow))
  "Face of grey text.")

(defvar-local talaria-client nil
  "Who has the connection of this buffer: a symbol that the generic functions know.")

(cl-defgeneric talaria-server (client)
  "Return the server that CLIENT has for this buffer; nil if there is none.")

(cl-defgeneric talaria-place (client position)
  "Return this buffer's URI and POSITION as CLIENT writes them, a plist.")

(cl-defgeneric talaria-send (client method params &optional then)
  "Send METHOD with PARAMS through CLIENT.
THEN is called with the result; without it, this is a notification.")

;;; The server's program and options

(defconst talaria--folder
  (file-name-directory (or load-file-name buffer-file-name default-directory))
  "Where this package lies.")

(defvar talaria--trusted nil
  "Programs within projects and whether they may be run, a list of pairs.")

(defun talaria-find-command ()
  "Return the command to start the server, a list; nil if there is none."
  (or talaria-server-command
      (when-let* ((program (or (executable-find "talaria")
                               (talaria--program-near talaria--folder)
                               (talaria--project-program))))
        (list program "lsp"))))

(defun talaria--program-near (folder)
  "Return the program in the virtual environment of FOLDER or one above it."
  (when-let* ((found (locate-dominating-file folder ".venv/bin/talaria")))
    (expand-file-name ".venv/bin/talaria" found)))

(defun talaria--project-program ()
  "Return the program in the project's .venv, if the user agrees to run it."
  (when-let* ((program (talaria--program-near default-directory)))
    (unless (assoc program talaria--trusted)
      (push (cons program (y-or-n-p (format "Talaria: run %s of this project? " program)))
            talaria--trusted))
    (and (cdr (assoc program talaria--trusted)) program)))

(defun talaria--option (name value)
  "Return VALUE of the option NAME as the server wants it; nil if it is none."
  (cond ((consp value) (vconcat value))
        ((memq value '(t :json-false)) value)
        ((and value (symbolp value)) (symbol-name value))
        (value)
        ;; Whether nil means no, none or nothing, the type tells; what is not listed is a switch.
        (t (pcase (car (alist-get name talaria--options '(boolean)))
             ('boolean :json-false)
             (`(repeat ,_) [])))))

(defun talaria-initialization-options (&rest _)
  "Return what the server is told at its start, a plist."
  (let (found)
    ;; The first of two counts.  Grey text is shown here, so there need be no list.
    (pcase-dolist (`(,name . ,value) (append talaria-options '((status . t) (completion . nil))))
      (let ((key (intern (format ":%s" name)))
            (value (talaria--option name value)))
        (unless (or (null value) (plist-member found key))
          (setq found (append found (list key value))))))
    found))

(defun talaria-failed (code message)
  "Show MESSAGE of a request that failed, unless by CODE it was overtaken."
  (unless (memql code '(-32800 -32801))
    (message "Talaria: %s" message)))

(defun talaria--field (object name)
  "Return the field NAME of OBJECT, a hash table or a plist."
  (if (hash-table-p object)
      (gethash name object)
    (plist-get object (intern (concat ":" name)))))

;;; The server's state, in the mode line

(defvar talaria--states (make-hash-table :test #'eq :weakness 'key)
  "What each server last said of itself: its state and a message, a pair.")

(defvar talaria--off nil
  "Languages in which suggestions are switched off; an empty text is all.")

(defvar talaria--told (make-hash-table :test #'eq :weakness 'key)
  "What each server knows of `talaria--off'.")

(defun talaria-heard (server state message)
  "SERVER said by `talaria/status' that it is in STATE, with MESSAGE."
  (puthash server (cons state message) talaria--states)
  (force-mode-line-update t))

(defun talaria--language ()
  "Return this buffer's language by the server's name for it."
  (replace-regexp-in-string "\\(-ts\\)?-mode\\'" "" (symbol-name major-mode)))

(defun talaria--said ()
  "Return the state of this buffer's server and a message; nil if there is none."
  (when-let* ((server (and talaria-client (talaria-server talaria-client))))
    (if (or (member "" talaria--off) (member (talaria--language) talaria--off))
        '("off" . "")
      (gethash server talaria--states '("loading" . "")))))

(defun talaria--state ()
  "Return the state of this buffer's server; nil if there is none."
  (car (talaria--said)))

(defun talaria--switch ()
  "Tell this buffer's server what is switched off, or on again, since it was told.
One that has just started knows of nothing."
  (let ((server (talaria-server talaria-client)))
    (dolist (name (cl-set-exclusive-or talaria--off (gethash server talaria--told) :test #'equal))
      (talaria-send talaria-client "workspace/executeCommand"
                    (list :command "talaria.toggle" :arguments (vector name)) #'ignore))
    (puthash server talaria--off talaria--told)))

(defun talaria--lighter ()
  "Return a text for the mode line."
  (pcase-let* ((`(,state . ,message) (or (talaria--said) '("no server" . "")))
               (mark (pcase state ("ready" "") ("busy" "*") ("off" "-") ("failed" "!")
                            ("loading" "…") (_ "?"))))
    (propertize (concat " Talaria" mark)
                'help-echo (string-trim-right (format "Talaria: %s  %s" state message)))))

;;; Grey text

(defvar-local talaria--texts nil "What is left of each suggestion; the first is shown.")
(defvar-local talaria--several nil "Whether several were asked for, not one alone.")
(defvar-local talaria--overlay nil "What shows the grey text.")
(defvar-local talaria--start nil "Where the grey text stands.")
(defvar-local talaria--size nil "The size of the buffer when it was shown.")
(defvar-local talaria--tick nil "The text's number before the present command.")
(defvar-local talaria--timer nil "What will ask the server.")

(defvar-keymap talaria-ghost-map
  :doc "Keys while there is grey text."
  "TAB" #'talaria-accept
  "<tab>" #'talaria-accept
  "M-f" #'talaria-accept-word
  "C-e" #'talaria-accept-line
  "M-n" #'talaria-next
  "M-p" #'talaria-previous
  "C-g" #'talaria-dismiss)

(unless (assq 'talaria--texts minor-mode-map-alist)
  ;; Behind the keys of lists of completions that are open.
  (push (cons 'talaria--texts talaria-ghost-map) minor-mode-map-alist))

;;;###autoload
(define-minor-mode talaria-ghost-mode
  "Show what Talaria offers as grey text; the client of the server turns it on."
  :lighter (:eval (talaria--lighter))
  (talaria--hide)
  (talaria--before-command)
  (if talaria-ghost-mode
      (progn
        (add-hook 'pre-command-hook #'talaria--before-command nil t)
        (add-hook 'post-command-hook #'talaria--after-command nil t)
        (add-hook 'after-change-functions #'talaria--after-change nil t))
    (remove-hook 'pre-command-hook #'talaria--before-command t)
    (remove-hook 'post-command-hook #'talaria--after-command t)
    (remove-hook 'after-change-functions #'talaria--after-change t)))

(defun talaria-attend (client &optional native)
  "Show grey text in this buffer if CLIENT has a server for it, and else none.
With NATIVE, CLIENT shows it by itself."
  (cond ((talaria-server client)
         (setq-local talaria-client client)
         (talaria--switch)
         (unless (or native talaria-ghost-mode)
           (talaria-ghost-mode 1)))
        ((eq talaria-client client)
         (talaria-ghost-mode -1))))

(defun talaria--show (texts)
  "Show the first of TEXTS at point and keep the others."
  (setq talaria--texts texts
        talaria--start (point)
        talaria--size (buffer-size))
  (unless talaria--overlay
    (setq talaria--overlay (make-overlay (point) (point))))
  (move-overlay talaria--overlay (point) (point) (current-buffer))
  (let ((shown (propertize (car texts) 'face 'talaria-ghost)))
    ;; The cursor stays before the grey text; on the end of a line it cannot stand.
    (when (string-prefix-p "\n" shown)
      (setq shown (concat " " shown)))
    (put-text-property 0 1 'cursor t shown)
    (overlay-put talaria--overlay 'after-string shown)
    (overlay-put talaria--overlay 'priority 100)))

(defun talaria--hide ()
  "Show no grey text."
  (when talaria--timer
    (cancel-timer talaria--timer))
  (when talaria--overlay
    (delete-overlay talaria--overlay))
  (setq talaria--texts nil talaria--overlay nil talaria--timer nil))

(defun talaria--before-command ()
  "Remember which text the command begins with."
  (setq talaria--tick (buffer-chars-modified-tick)))

(defun talaria--after-command ()
  "Keep grey text that still fits; ask for another where the text was changed."
  (let ((changed (not (eql talaria--tick (buffer-chars-modified-tick)))))
    (when talaria--texts
      (let ((rests (if changed (talaria--rests) (and (= (point) talaria--start) talaria--texts))))
        (cond ((null rests) (talaria--hide))
              (changed (talaria--show rests)))))
    (when (and changed (null talaria--texts) (not (memq this-command '(undo undo-only undo-redo))))
      (when talaria--timer
        (cancel-timer talaria--timer))
      (setq talaria--timer
            (run-with-timer talaria-delay nil #'talaria--ask (current-buffer))))))

(defun talaria--after-change (&rest _)
  "Hide grey text: the text is another one, and not by a command."
  (when (and talaria--texts (null this-command))
    (talaria--hide)))

(defun talaria--rests ()
  "Return what is left of the suggestions where they were typed along."
  (let ((typed (- (point) talaria--start)))
    (when (and (> typed 0) (= typed (- (buffer-size) talaria--size)))
      (let ((new (buffer-substring-no-properties talaria--start (point))))
        (cl-loop for text in talaria--texts
                 when (and (string-prefix-p new text) (length> text typed))
                 collect (substring text typed))))))

(defun talaria--ask (buffer &optional invoked)
  "Ask for grey text at point in BUFFER, if the user is in that.
With INVOKED, ask for several to choose from."
  (when (eq buffer (window-buffer))
    (with-current-buffer buffer
      (setq talaria--timer nil)
      (when (and talaria-ghost-mode
                 ;; Without a model, the server may still have a service that answers.
                 (not (member (talaria--state) (if invoked '(nil) '(nil "off"))))
                 (not buffer-read-only)
                 (not (use-region-p)))
        (talaria--switch)
        (let ((tick (buffer-chars-modified-tick))
              (place (point))
              (at (talaria-place talaria-client (point))))
          (talaria-send
           talaria-client "textDocument/inlineCompletion"
           (list :textDocument (list :uri (plist-get at :uri))
                 :position (plist-get at :position)
                 :context (list :triggerKind (if invoked 1 2)))
           (lambda (result)
             ;; Of a text that has changed meanwhile, nothing is shown.
             (when (and (buffer-live-p buffer) (eq buffer (window-buffer)))
               (with-current-buffer buffer
                 (when (and talaria-ghost-mode
                            (= tick (buffer-chars-modified-tick))
                            (= place (point)))
                   (talaria--answered result invoked)))))))))))

(defun talaria--answered (result invoked)
  "Show what is in RESULT; INVOKED as in `talaria--ask'."
  (let ((texts (cl-loop for item across (vconcat result)
                        collect (talaria--field item "insertText"))))
    (when (and invoked talaria--texts (equal (car texts) (car talaria--texts)))
      ;; That one is on the screen already.
      (setq texts (append (cdr texts) (list (car texts)))))
    (cond (texts
           (setq talaria--several (and invoked t))
           (talaria--show texts)
           (when invoked
             (talaria--tell (if (cdr texts) (format "%d suggestions" (length texts))
                              "this is the only suggestion"))))
          (invoked (talaria--tell "nothing to offer here"))))
  ;; The answer came while Emacs waited for a key.
  (redisplay))

(defun talaria--tell (message)
  "Show MESSAGE, not in the log of messages."
  (let ((message-log-max nil))
    (message "Talaria: %s" message)))

(defun talaria--take (pattern)
  "Insert the part of the grey text that PATTERN matches, or all of it."
  (let ((text (or (car talaria--texts) (user-error "Talaria: there is no grey text"))))
    (insert (if (and pattern (string-match (concat "\\`\\(?:" pattern "\\)") text))
                (match-string 0 text)
              text))))

(defun talaria-accept ()
  "Take all of the grey text."
  (interactive "*")
  (talaria--take nil))

(defun talaria-accept-word ()
  "Take the next word of the grey text; a sign counts as one."
  (interactive "*")
  (talaria--take "[ \t\n]*\\(?:[[:alnum:]_]+\\|[^[:alnum:]_ \t\n]+\\)[ \t]*"))

(defun talaria-accept-line ()
  "Take the rest of the line of the grey text; at its end, the next line."
  (interactive "*")
  (talaria--take "\n*[^\n]+"))

(defun talaria-next (&optional back)
  "Show the next suggestion, or the one before with BACK.
The first time, ask for several."
  (interactive)
  (cond ((not (and talaria--texts talaria--several))
         (talaria-complete))
        (back
         (talaria--show (append (last talaria--texts) (butlast talaria--texts))))
        (t
         (talaria--show (append (cdr talaria--texts) (list (car talaria--texts)))))))

(defun talaria-previous ()
  "Show the suggestion before the present one."
  (interactive)
  (talaria-next t))

(defun talaria-dismiss ()
  "Take the grey text away; it does not come by itself again."
  (interactive)
  (talaria--hide)
  (talaria-send (talaria--client) "talaria/didDismiss" (list :uri (talaria--uri)))
  (talaria--tell "dismissed"))

;;;###autoload
(defun talaria-complete ()
  "Ask for several suggestions at point."
  (interactive)
  (talaria--client)
  (talaria--ask (current-buffer) t))

;;; Commands of the server

(defun talaria--client ()
  "Return the client of this buffer; it is an error if it has no server."
  (if (and talaria-client (talaria-server talaria-client))
      talaria-client
    (user-error "Talaria: no server in this buffer; start `lsp' or `talaria-eglot'")))

(defun talaria--execute (command arguments &optional then)
  "Have the server execute COMMAND with ARGUMENTS; call THEN with the result."
  (let ((client (talaria--client)))
    (talaria--hide)
    (talaria-send client "workspace/executeCommand"
                  (list :command (concat "talaria." command) :arguments (vconcat arguments))
                  (or then #'ignore))))

(defun talaria--place (position)
  "Return this buffer's URI and POSITION; it is an error if it has no server."
  (talaria-place (talaria--client) position))

(defun talaria--uri ()
  "Return the URI of this buffer, as the server knows it."
  (plist-get (talaria--place (point)) :uri))

(defun talaria--write (command place)
  "Have the server write by COMMAND at PLACE."
  (talaria--tell "writing...")
  (talaria--execute command (list place)))

(defun talaria-act (action)
  "Have ACTION of the editor's own list carried out: a command of the server's.
Nobody waits for it; it may take longer than the client's patience."
  (talaria--tell "writing...")
  (talaria--execute (string-remove-prefix "talaria." (talaria--field action "command"))
                    (talaria--field action "arguments")))

;;;###autoload
(defun talaria-fill-function ()
  "Have the body of the function around point written."
  (interactive "*")
  (talaria--write "fillFunction" (talaria--place (point))))

;;;###autoload
(defun talaria-fill-here ()
  "Have the placeholder of this line filled: `...', `pass', a TODO."
  (interactive "*")
  (talaria--write "fillHere" (talaria--place (point))))

;;;###autoload
(defun talaria-rewrite (start end)
  "Have the text between START and END written anew."
  (interactive "*r")
  (talaria--write "rewrite"
                  (list :uri (talaria--uri)
                        :range (list :start (plist-get (talaria--place start) :position)
                                     :end (plist-get (talaria--place end) :position))))
  (deactivate-mark))

;;;###autoload
(defun talaria-next-candidate ()
  "Put the next candidate where the server wrote last."
  (interactive "*")
  (talaria--execute "nextCandidate" (list (talaria--uri))))

;;;###autoload
(defun talaria-show-trace ()
  "Show in a browser how the last answer came about."
  (interactive)
  (talaria--execute "showTrace" (list (talaria--uri))))

;;;###autoload
(defun talaria-toggle (&optional language)
  "Switch suggestions off or on.
With a prefix argument LANGUAGE, do so in this language alone."
  (interactive "P")
  (let* ((name (if language (talaria--language) ""))
         (on (member name talaria--off)))
    (setq talaria--off (if on (remove name talaria--off) (cons name talaria--off)))
    (talaria--hide)
    (when (talaria--state)
      (talaria--switch))
    (force-mode-line-update t)
    (talaria--tell (format "suggestions%s are %s"
                           (if language (concat " in " name) "") (if on "on" "off")))))

;;;###autoload
(defun talaria-status ()
  "Tell how the server is and how much it did."
  (interactive)
  (let ((state (talaria--state)))
    (talaria--execute
     "status" nil
     (lambda (result)
       (let ((engine (talaria--field result "engine")))
         (talaria--tell (format "%s, %s requests in this session"
                                state (or (talaria--field engine "requests") 0))))))))

(provide 'talaria)
;;; talaria.el ends here
